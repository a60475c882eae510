"""The memory of a run, by the size of its model."""

import pytest

from cartesian_moe_jax.config import Config
from cartesian_moe_jax.models.build import abstract_model
from cartesian_moe_jax.models.parameters import named_parameters
from cartesian_moe_jax.parallel.layouts import LAYOUTS
from cartesian_moe_jax.training import memory
from tests import tiny


def test_the_weights_are_about_those_of_the_model():
    model = tiny.config(model={"moe": {"interval": 1, "num_experts": 16}}).model
    parameters = named_parameters(abstract_model(model, LAYOUTS["data"]))
    counted = sum(v.size for name, v in parameters.items() if name not in ("embedding", "head"))
    assert memory.largest_weights(model) == pytest.approx(counted, rel=0.25)


@pytest.mark.parametrize(("most", "restarts"), [(0, 0), (10**12, 1)])
def test_a_small_model_restarts_and_every_one_keeps_its_memory(most, restarts, monkeypatch):
    done = []
    monkeypatch.setattr(memory, "MOST_WEIGHTS", most)
    monkeypatch.setattr(memory, "restart_in_huge_pages", lambda: done.append("restart"))
    monkeypatch.setattr(memory, "keep_freed_memory", lambda: done.append("keep"))
    memory.take_memory(tiny.config().model)
    assert done == ["restart"] * restarts + ["keep"]


def test_the_papers_model_is_large():
    assert memory.largest_weights(Config().model) > memory.MOST_WEIGHTS
