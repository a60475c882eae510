"""Every layout on 8 devices equals one device: loss, every gradient, clip norm, one SGD step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cartesian_moe_jax.config import OptimizerConfig
from cartesian_moe_jax.models.build import abstract_model, build_model
from cartesian_moe_jax.models.parameters import named_parameters, with_parameters
from cartesian_moe_jax.moe.routers.softmax_top_k import SoftmaxTopK
from cartesian_moe_jax.moe.routers.top_p import TopP
from cartesian_moe_jax.parallel.axes import BATCH
from cartesian_moe_jax.parallel.layouts import LAYOUTS, layout_of
from cartesian_moe_jax.parallel.mesh import make_mesh
from cartesian_moe_jax.training.optimizer import make_optimizer
from cartesian_moe_jax.training.state import make_create_state
from cartesian_moe_jax.training.step import make_train_step
from tests import tiny

MESHES = {
    "data": tiny.parallel(layout="data", data=8),
    "fsdp": tiny.parallel(layout="fsdp", data=2, fsdp=4),
    "expert": tiny.parallel(layout="expert", data=2, expert=4),
    "expert everywhere": tiny.parallel(layout="expert", data=1, expert=4, fsdp=2),
    "local on a mesh with an expert axis": tiny.parallel(layout="data", data=2, expert=4),
}
ONE = tiny.parallel(layout="data", data=1)
CONFIG = tiny.model_config(num_layers=2, init_std=0.3, moe={"z_loss": 0.01})
ROUTED = {
    "top_p": tiny.model_config(
        num_layers=1, init_std=0.3, moe={"router": "top_p", "top_p": 0.6, "z_loss": 0.01}
    ),
    "hash": tiny.model_config(
        num_layers=1, init_std=0.3, moe={"router": "hash", "balance_loss": 0.0}
    ),
}
"""Other routers, over one Cartesian layer each."""
TOKENS = np.random.default_rng(5).integers(0, 257, (16, 9), np.int32)


def keep_gradients():
    """An optimizer stage that leaves the gradients it sees in its state."""
    return optax.GradientTransformation(
        lambda parameters: jax.tree.map(jnp.zeros_like, parameters),
        lambda gradients, _, parameters=None: (gradients, gradients),
    )


@functools.cache
def prepared(config, parallel):
    """The mesh, the state to begin with and the compiled step, which keeps the gradients."""
    layout, devices = layout_of(parallel), jax.devices()
    mesh = make_mesh(parallel, devices[:1] if parallel == ONE else devices)
    sgd = OptimizerConfig(name="sgd", learning_rate=1.0, warmup_steps=0, clip_norm=0.5)
    optimizer = optax.chain(keep_gradients(), make_optimizer(sgd, steps=10))
    step = make_train_step(abstract_model(config, layout), optimizer, config)
    with jax.set_mesh(mesh):
        state = make_create_state(config, layout, optimizer, mesh)(np.uint32(3))
        return mesh, state, jax.jit(step)


def run(config, parallel, skew):
    """Loss, statistics, gradients, norm and the parameters after one clipped SGD step."""
    mesh, state, step = prepared(config, parallel)
    with jax.set_mesh(mesh):
        state = state._replace(parameters=skewed(state.parameters, skew))
        placed = jax.device_put(TOKENS, jax.sharding.NamedSharding(mesh, BATCH))
        after, report = step(state, placed)
    return jax.device_get((*report, after.optimizer[0], after.parameters))


@functools.cache
def on_one_device(config, skew):
    return run(config, ONE, skew)


def skewed(parameters, skew):
    """Parameters whose routers prefer their first expert, the more the higher the skew."""
    return {
        name: value.at[..., 0].add(skew) if name.endswith("router/weight") else value
        for name, value in parameters.items()
    }


def assert_equal_runs(ours, theirs):
    names = ("loss", "gradient norm", "statistics", "gradients", "parameters")
    for name, a, b in zip(names, ours, theirs, strict=True):
        jax.tree_util.tree_map_with_path(
            lambda path, a, b, name=name: np.testing.assert_allclose(
                a, b, rtol=1e-5, atol=1e-6, err_msg=f"{name}{jax.tree_util.keystr(path)}"
            ),
            a,
            b,
        )


def routing_margin(config, skew):
    """The least gap between the last expert chosen and the first left out, in any sub-layer."""
    gaps = []

    def choose_and_note(router, scores):
        top, _ = jax.lax.top_k(scores.probabilities, router.top_k + 1)
        jax.debug.callback(lambda gap: gaps.append(float(gap)), jnp.min(top[:, -2] - top[:, -1]))
        return choose(router, scores)

    model = build_model(config, LAYOUTS["data"], seed=3)
    model = with_parameters(model, skewed(named_parameters(model), skew))
    choose = SoftmaxTopK.choose
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SoftmaxTopK, "choose", choose_and_note)
        model.hidden(jnp.asarray(TOKENS[:, :-1]))
        jax.effects_barrier()
    return min(gaps)


@pytest.mark.parametrize("skew", [0.0, 0.5], ids=["even", "skewed"])
@pytest.mark.parametrize("mesh", MESHES)
def test_layout_equals_one_device(mesh, skew):
    ours, theirs = run(CONFIG, MESHES[mesh], skew), on_one_device(CONFIG, skew)
    assert_equal_runs(ours, theirs)
    assert theirs[1] > 0.5, "the step must be clipped for its norm to matter"


@pytest.mark.parametrize("skew", [0.0, 0.5], ids=["even", "skewed"])
def test_no_choice_is_close_enough_to_flip(skew):
    # Float noise between layouts is about 1e-6: the comparison above means nothing below it.
    assert routing_margin(CONFIG, skew) > 2e-5


def top_p_margin(config):
    """The least gap between top_p and a sum of probabilities that is compared with it."""
    gaps, choose = [], TopP.choose

    def choose_and_note(router, scores):
        ranked, _ = jax.lax.top_k(scores.probabilities, router.max_chosen)
        gap = jnp.min(jnp.abs(jnp.cumsum(ranked, axis=-1) - router.top_p))
        jax.debug.callback(lambda gap: gaps.append(float(gap)), gap)
        return choose(router, scores)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TopP, "choose", choose_and_note)
        build_model(config, LAYOUTS["data"], seed=3).hidden(jnp.asarray(TOKENS[:, :-1]))
        jax.effects_barrier()
    return min(gaps)


@pytest.mark.parametrize("mesh", ["data", "expert"])
@pytest.mark.parametrize("router", ROUTED)
def test_routers_on_a_layout_equal_one_device(router, mesh):
    config = ROUTED[router]
    ours, theirs = run(config, MESHES[mesh], 0.0), on_one_device(config, 0.0)
    assert_equal_runs(ours, theirs)
    assert theirs[1] > 0.5, "the step must be clipped for its norm to matter"


def test_top_p_has_unused_slots_and_no_close_choice():
    config = ROUTED["top_p"]
    _, _, stats, *_ = on_one_device(config, 0.0)
    assert (stats.experts_per_token() < 2.9).all()
    assert (stats.experts_per_token() > 1.1).all()
    assert top_p_margin(config) > 2e-5


def test_moments_lie_beside_their_parameters():
    config = tiny.model_config()
    mesh = make_mesh(MESHES["expert"])
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
