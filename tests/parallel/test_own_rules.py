"""Every rule that a layout of one's own may have: it equals one device."""

import functools
import re

import jax
import numpy as np
import pytest

from cartesian_moe_jax.models.build import abstract_model
from cartesian_moe_jax.models.parameters import (
    named_parameters,
    parameter_shardings,
    trainable,
    with_parameters,
)
from cartesian_moe_jax.parallel.axes import AXES, BATCH, TENSOR
from cartesian_moe_jax.parallel.layouts import LOGICAL, layout_of
from cartesian_moe_jax.parallel.mesh import make_mesh
from cartesian_moe_jax.training.step import objective
from tests import tiny
from tests.messages import message_of

CONFIG = tiny.model_config(num_layers=1, init_std=0.3, remat="none")
TOKENS = np.random.default_rng(5).integers(0, 257, (8, 9), np.int32)
RULES = [
    # Along the batch axes all rules go one way; tensor's go another.
    pytest.param(f"{logical}={axis}", marks=[] if axis == TENSOR else pytest.mark.long)
    for logical in LOGICAL
    for axis in AXES
]
SEVERAL = ["d_model=tensor+fsdp,experts=expert", "experts=expert,d_expert=data,vocab=tensor"]


def step_on(parallel, devices):
    """Loss, statistics and gradients of one batch."""
    layout, mesh = layout_of(parallel), make_mesh(parallel, jax.devices()[:devices])
    values, skeleton = named_parameters(tiny.model(CONFIG)), abstract_model(CONFIG, layout)
    values = jax.device_put(values, parameter_shardings(values, layout, mesh))
    tokens = jax.device_put(TOKENS, jax.sharding.NamedSharding(mesh, BATCH))

    def of(moved):
        return objective(with_parameters(skeleton, values | moved), tokens, CONFIG)

    with jax.set_mesh(mesh):
        return jax.device_get(jax.jit(jax.value_and_grad(of, has_aux=True))(trainable(values)))


@functools.cache
def on_one_device():
    return step_on(tiny.parallel(layout="data", data=1), 1)


@pytest.mark.parametrize("rules", RULES + SEVERAL)
def test_rule_equals_one_device(rules):
    named = [axis for axis in AXES if axis in re.split("[=+,]", rules)]
    parallel = tiny.parallel(rules=rules, **dict.fromkeys(AXES, 1) | dict.fromkeys(named, 2))
    ours, theirs = step_on(parallel, 2 ** len(named)), on_one_device()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, theirs)


@pytest.mark.parametrize("rules", ["d_model=tensor,d_ff=tensor", "experts=expert,d_expert=expert"])
def test_rules_that_use_an_axis_twice_are_refused_in_one_line(rules):
    line = message_of(step_on, tiny.parallel(rules=rules, data=1, expert=2, tensor=2), 4)
    assert "would split both" in line
    assert "\n" not in line
