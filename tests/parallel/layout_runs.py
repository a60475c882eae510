"""A training step of a tiny model on a layout, and what must be equal to that of one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cartesian_moe_jax.config import OptimizerConfig
from cartesian_moe_jax.models.build import abstract_model, build_model
from cartesian_moe_jax.models.parameters import (
    named_parameters,
    trainable,
    with_parameters,
)
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
    "data": {"data": 8},
    "fsdp": {"data": 2, "fsdp": 4},
    "expert": {"data": 2, "expert": 4},
    "expert_fsdp": {"data": 2, "fsdp": 2, "expert": 2},
    "tensor": {"data": 4, "tensor": 2},
    "expert_tensor": {"data": 2, "expert": 2, "tensor": 2},
}
"""A mesh of 8 for each layout."""

EXCHANGES = {
    layout: ["local"] + ["gather", "all_to_all", "ragged"] * ("expert" in layout)
    for layout in LAYOUTS
}
ONE = tiny.parallel(layout="data", data=1)


def on(layout, exchange="", **fields):
    """A layout on its mesh, without bounds: what overflows would be dropped."""
    sizes = {**MESHES[layout], **fields}
    return tiny.parallel(layout=layout, exchange=exchange, bucket_factor=0.0, **sizes)


TOKENS = np.random.default_rng(5).integers(0, 257, (16, 9), np.int32)


def small(**fields):
    """A tiny model with large weights: routing and clipping have something to do."""
    moe = {"z_loss": 0.01} | fields.pop("moe", {})
    return tiny.model_config(**{"num_layers": 1, "init_std": 0.3, "moe": moe} | fields)


CONFIGS = {
    "cartesian": small(num_layers=2),
    "fine_grained": small(moe={"sublayers": 1, "num_experts": 8, "top_k": 4, "d_expert": 6}),
    "top_p": small(moe={"router": "top_p", "top_p": 0.6}),
    "hash": small(moe={"router": "hash", "balance_loss": 0.0, "z_loss": 0.0}),
}


def keep_gradients():
    """An optimizer stage that leaves the gradients it sees in its state."""
    return optax.GradientTransformation(
        lambda parameters: jax.tree.map(jnp.zeros_like, parameters),
        lambda gradients, _, parameters=None: (gradients, gradients),
    )


@functools.cache
def prepared(config, parallel):
    """The mesh, the state to begin with and the compiled step, which keeps the gradients."""
    layout = layout_of(parallel)
    mesh = make_mesh(parallel, jax.devices()[: 1 if parallel == ONE else 8])
    sgd = OptimizerConfig(name="sgd", learning_rate=1.0, warmup_steps=0, clip_norm=0.5)
    optimizer = optax.chain(keep_gradients(), make_optimizer(sgd, steps=10))
    step = make_train_step(abstract_model(config, layout), optimizer, config)
    with jax.set_mesh(mesh):
        state = make_create_state(config, layout, optimizer, mesh)(np.uint32(3))
        return mesh, state, jax.jit(lambda state, tokens: with_adamw_step(*step(state, tokens)))


ADAMW = make_optimizer(OptimizerConfig(learning_rate=1e-2, warmup_steps=0, eps=1e-3), steps=10)


def with_adamw_step(after, report):
    """Beside it, where a step of AdamW with these gradients moves the parameters."""
    moved, gradients = trainable(after.parameters), after.optimizer[0]
    updates, _ = ADAMW.update(gradients, ADAMW.init(moved), moved)
    return after, report, optax.apply_updates(moved, updates)


def run(config, parallel, skew):
    """Loss, norm, statistics, gradients, parameters after a clipped SGD step, and after AdamW's."""
    mesh, state, step = prepared(config, parallel)
    with jax.set_mesh(mesh):
        state = state._replace(parameters=skewed(state.parameters, skew))
        placed = jax.device_put(TOKENS, jax.sharding.NamedSharding(mesh, BATCH))
        after, report, adamw = step(state, placed)
    return jax.device_get((*report, after.optimizer[0], after.parameters, adamw))


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
    names = ("loss", "gradient norm", "statistics", "gradients", "after SGD", "after AdamW")
    for name, a, b in zip(names, ours, theirs, strict=True):
        jax.tree_util.tree_map_with_path(
            lambda path, a, b, name=name: np.testing.assert_allclose(
                a, b, rtol=1e-5, atol=1e-6, err_msg=f"{name}{jax.tree_util.keystr(path)}"
            ),
            a,
            b,
        )


def model_of(config, skew):
    model = build_model(config, LAYOUTS["data"], seed=3)
    return with_parameters(model, skewed(named_parameters(model), skew))


def top_k_margin(config, skew):
    """The least gap between the last expert chosen and the first left out, in any sub-layer."""
    gaps = []

    def choose_and_note(router, scores):
        top, _ = jax.lax.top_k(scores.probabilities, router.top_k + 1)
        jax.debug.callback(lambda gap: gaps.append(float(gap)), jnp.min(top[:, -2] - top[:, -1]))
        return choose(router, scores)

    choose = SoftmaxTopK.choose
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SoftmaxTopK, "choose", choose_and_note)
        model_of(config, skew).hidden(jnp.asarray(TOKENS[:, :-1]))
        jax.effects_barrier()
    return min(gaps)


def top_p_margin(config, skew):
    """The least gap between top_p and a sum of probabilities that is compared with it."""
    gaps, choose = [], TopP.choose

    def choose_and_note(router, scores):
        ranked, _ = jax.lax.top_k(scores.probabilities, router.max_chosen)
        gap = jnp.min(jnp.abs(jnp.cumsum(ranked, axis=-1) - router.top_p))
        jax.debug.callback(lambda gap: gaps.append(float(gap)), gap)
        return choose(router, scores)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TopP, "choose", choose_and_note)
        model_of(config, skew).hidden(jnp.asarray(TOKENS[:, :-1]))
        jax.effects_barrier()
    return min(gaps)


def equals_one_device(config, parallel, skew):
    """Assert that a step on the layout is that of one device, and that it says something."""
    ours, theirs = run(config, parallel, skew), on_one_device(config, skew)
    assert_equal_runs(ours, theirs)
    assert theirs[1] > 0.5, "the step must be clipped for its norm to matter"
