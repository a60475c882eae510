"""The dense twin of a model, and the table of a measured step."""

import pytest

from benchmarks.step import dense_twin, measure, table
from cartesian_moe_jax.models.build import abstract_model
from cartesian_moe_jax.models.cost import model_cost
from cartesian_moe_jax.models.parameters import named_parameters
from cartesian_moe_jax.parallel.layouts import LAYOUTS
from tests import tiny


def test_the_twin_has_the_active_experts_and_nothing_of_routing():
    config = tiny.config(model={"moe": {"shared_feed_forwards": 2}})
    costs, twin = model_cost(config), model_cost(dense_twin(config))
    active = [costs[part].active_parameters for part in ("routed experts", "shared experts")]
    # One of the three layers is dense in both.
    dense = costs["dense feed-forward"].active_parameters
    assert twin["dense feed-forward"].active_parameters - dense > 0
    coefficients = sum(
        value.size
        for name, value in named_parameters(abstract_model(config.model, LAYOUTS["data"])).items()
        if "/coefficient" in name or name.endswith("/bias")
    )
    assert twin["dense feed-forward"].active_parameters - dense == sum(active) - coefficients
    assert not {"routers", "routed experts", "shared experts"} & set(twin)


@pytest.mark.long
def test_a_step_is_measured_with_its_parts():
    config = tiny.config(model={"num_layers": 1, "vocab_size": 257}, parallel={"data": -1})
    measured = measure(config, rounds=2, with_parts=True)
    assert {"experts", "attention", "head", "optimizer"} <= set(measured.parts)
    lines = table(measured, tokens=128).splitlines()
    assert lines[1].startswith("model") and lines[2].split()[4] == "1.00"
    assert [line.split()[-1][-1] for line in lines[4:]] == ["%"] * len(measured.parts)
