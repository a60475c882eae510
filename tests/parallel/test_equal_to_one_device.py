"""Every layout on 8 devices equals one device: loss, every gradient, clip norm, one SGD step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cartesian_moe_jax.config import OptimizerConfig
from cartesian_moe_jax.models.build import abstract_model, build_model
from cartesian_moe_jax.models.parameters import named_parameters, with_parameters
from cartesian_moe_jax.parallel.layouts import LAYOUTS
from cartesian_moe_jax.parallel.mesh import BATCH, make_mesh
from cartesian_moe_jax.training.optimizer import make_optimizer
from cartesian_moe_jax.training.state import create_state
from cartesian_moe_jax.training.step import make_train_step, objective
from tests import tiny

MESHES = {
    "data": tiny.parallel(layout="data", data=8),
    "fsdp": tiny.parallel(layout="fsdp", data=2, fsdp=4),
    "expert": tiny.parallel(layout="expert", data=2, expert=4),
    "expert everywhere": tiny.parallel(layout="expert", data=1, expert=4, fsdp=2),
    "local on a mesh with an expert axis": tiny.parallel(layout="data", data=2, expert=4),
}
ONE = tiny.parallel(layout="data", data=1)


def run(config, parallel, tokens, skew):
    """Loss, statistics, gradients, norm and the parameters after one SGD step."""
    layout, devices = LAYOUTS[parallel.layout], jax.devices()
    mesh = make_mesh(parallel, devices[:1] if parallel == ONE else devices)
    optimizer = make_optimizer(
        OptimizerConfig(name="sgd", learning_rate=1.0, warmup_steps=0, clip_norm=0.5), steps=10
    )
    skeleton = abstract_model(config, layout)
    with jax.set_mesh(mesh):
        state = create_state(config, layout, optimizer, mesh, seed=3)
        parameters = {
            name: value.at[..., 0].add(skew) if name.endswith("router/weight") else value
            for name, value in state.parameters.items()
        }
        state = state._replace(parameters=parameters)
        placed = jax.device_put(tokens, jax.sharding.NamedSharding(mesh, BATCH))

        def of(parameters):
            return objective(with_parameters(skeleton, parameters), placed, config)

        gradients, (loss, stats) = jax.jit(jax.grad(of, has_aux=True))(state.parameters)
        after, report = jax.jit(make_train_step(skeleton, optimizer, config))(state, placed)
    return jax.device_get((loss, stats, gradients, report.gradient_norm, after.parameters))


def assert_equal_runs(ours, theirs):
    names = ("loss", "stats", "gradients", "norm", "parameters")
    for name, a, b in zip(names, ours, theirs, strict=True):
        jax.tree_util.tree_map_with_path(
            lambda path, a, b, name=name: np.testing.assert_allclose(
                a, b, rtol=1e-5, atol=1e-6, err_msg=f"{name}{jax.tree_util.keystr(path)}"
            ),
            a,
            b,
        )


def routing_margin(config, tokens, skew):
    """The least gap between the last expert chosen and the first left out, in any sub-layer."""
    model = build_model(config, LAYOUTS["data"], seed=3)
    parameters = named_parameters(model)
    margins = []

    def spy(
        router,
        scores,
        choose=type(model.segments[0].blocks[0].feed_forward.sublayers[0].router).choose,
    ):
        top = jax.lax.top_k(scores.probabilities, router.top_k + 1)[0]
        jax.debug.callback(lambda gap: margins.append(float(gap)), jnp.min(top[:, -2] - top[:, -1]))
        return choose(router, scores)

    for name in parameters:
        if name.endswith("router/weight"):
            parameters[name] = parameters[name].at[..., 0].add(skew)
    router_class = type(model.segments[0].blocks[0].feed_forward.sublayers[0].router)
    original, router_class.choose = router_class.choose, spy
    try:
        with_parameters(model, parameters).hidden(jnp.asarray(tokens[:, :-1]))
        jax.effects_barrier()
    finally:
        router_class.choose = original
    return min(margins)


@pytest.mark.parametrize("skew", [0.0, 0.5], ids=["even", "skewed"])
@pytest.mark.parametrize("mesh", MESHES)
def test_layout_equals_one_device(mesh, skew):
    config = tiny.model_config(init_std=0.3, moe={"z_loss": 0.01})
    tokens = np.random.default_rng(5).integers(0, 257, (16, 9), np.int32)
    # Float noise between layouts is about 1e-6: a choice closer than that could flip.
    assert routing_margin(config, tokens, skew) > 2e-5
    ours = run(config, MESHES[mesh], tokens, skew)
    theirs = run(config, ONE, tokens, skew)
    assert_equal_runs(ours, theirs)
    assert theirs[3] > 0.5, "the step must be clipped for its norm to matter"


def test_moments_lie_beside_their_parameters():
    config = tiny.model_config()
    mesh = make_mesh(MESHES["expert"])
    optimizer = make_optimizer(OptimizerConfig(warmup_steps=0), steps=10)
    with jax.set_mesh(mesh):
        state = create_state(config, LAYOUTS["expert"], optimizer, mesh, seed=0)
    moments = optax.tree_utils.tree_get(state.optimizer, "mu")
    experts = [name for name in state.parameters if "/experts/" in name]
    assert experts
    for name in experts:
        local = state.parameters[name].addressable_shards[0].data.shape
        assert local[1] * 4 == state.parameters[name].shape[1]
        assert moments[name].sharding == state.parameters[name].sharding
