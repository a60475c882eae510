"""Every layout on 8 devices equals one device: loss, gradients, clip norm, SGD and AdamW steps."""

import jax
import numpy as np
import optax
import pytest

from cartesian_moe_jax.config import OptimizerConfig
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.models.build import abstract_model
from cartesian_moe_jax.parallel.layouts import LAYOUTS
from cartesian_moe_jax.parallel.mesh import make_mesh
from cartesian_moe_jax.training.optimizer import make_optimizer
from cartesian_moe_jax.training.state import make_create_state
from tests import tiny
from tests.parallel.layout_runs import (
    CONFIGS,
    EXCHANGES,
    equals_one_device,
    on,
    on_one_device,
    top_k_margin,
    top_p_margin,
)

SKEWS = pytest.mark.parametrize("skew", [0.0, 0.5], ids=["even", "skewed"])
CASES = {
    "data": on("data"),
    "fsdp": on("fsdp"),
    "expert, gather": on("expert", "gather"),
    "expert_fsdp, all_to_all": on("expert_fsdp", "all_to_all"),
    "tensor": on("tensor"),
    "expert_tensor, ragged": on("expert_tensor", "ragged"),
    "data on a mesh with an expert axis": on("data", data=2, expert=4),
}


@SKEWS
@pytest.mark.parametrize("case", CASES)
def test_layout_equals_one_device(case, skew):
    equals_one_device(CONFIGS["cartesian"], CASES[case], skew)


@pytest.mark.parametrize(
    "method, case",
    [
        pytest.param("top_p", "data", marks=pytest.mark.long),
        ("top_p", "expert_fsdp, all_to_all"),
        pytest.param("hash", "expert, gather", marks=pytest.mark.long),
        pytest.param("fine_grained", "expert_tensor, ragged", marks=pytest.mark.long),
    ],
)
def test_other_methods_equal_one_device(method, case):
    equals_one_device(CONFIGS[method], CASES[case], 0.0)


@pytest.mark.long
@SKEWS
@pytest.mark.parametrize("method", ["cartesian", "fine_grained", "top_p"])
@pytest.mark.parametrize("layout, exchange", [(n, e) for n in LAYOUTS for e in EXCHANGES[n]])
def test_every_layout_with_each_of_its_exchanges(layout, exchange, method, skew):
    equals_one_device(CONFIGS[method], on(layout, exchange), skew)


@SKEWS
@pytest.mark.parametrize("method", ["cartesian", "fine_grained", "top_p"])
def test_no_choice_is_close_enough_to_flip(method, skew):
    # Float noise between layouts is about 1e-6: the comparisons above mean nothing below it.
    margin = top_p_margin if method == "top_p" else top_k_margin
    assert margin(CONFIGS[method], skew) > 2e-5


def test_top_p_has_unused_slots():
    _, _, stats, *_ = on_one_device(CONFIGS["top_p"], 0.0)
    assert (stats.experts_per_token() < 2.9).all()
    assert (stats.experts_per_token() > 1.1).all()


def test_experts_that_do_not_divide_are_named():
    mesh, optimizer = make_mesh(on("expert")), make_optimizer(OptimizerConfig(), steps=2000)
    config = tiny.model_config(moe={"num_experts": 6})
    abstract_model(config, LAYOUTS["expert"])
    with pytest.raises(UserError, match=r"experts/\w+: experts=6 .* 'expert' of size 4"):
        make_create_state(config, LAYOUTS["expert"], optimizer, mesh)


def test_moments_lie_beside_their_parameters():
    config = tiny.model_config()
    mesh = make_mesh(on("expert"))
    optimizer = make_optimizer(OptimizerConfig(warmup_steps=0), steps=10)
    with jax.set_mesh(mesh):
        state = make_create_state(config, LAYOUTS["expert"], optimizer, mesh)(np.uint32(0))
    moments = optax.tree_utils.tree_get(state.optimizer, "mu")
    experts = [name for name in state.parameters if "/experts/" in name]
    assert experts
    for name in experts:
        local = state.parameters[name].addressable_shards[0].data.shape
        assert local[1] * 4 == state.parameters[name].shape[1]
        assert moments[name].sharding == state.parameters[name].sharding
