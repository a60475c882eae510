"""Hash routing: the token's id decides, by a table that training leaves alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from cartesian_moe_jax.config import OptimizerConfig
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.models.build import abstract_model
from cartesian_moe_jax.models.parameters import named_parameters
from cartesian_moe_jax.moe.cartesian import CartesianProductLayer
from cartesian_moe_jax.moe.routers import Hash
from cartesian_moe_jax.moe.routers.hash import initial_table
from cartesian_moe_jax.moe.routing import NO_CONTEXT, RouterContext
from cartesian_moe_jax.moe.shape import SubLayerShape
from cartesian_moe_jax.parallel.layouts import LAYOUTS
from cartesian_moe_jax.training.optimizer import make_optimizer
from cartesian_moe_jax.training.state import init_state
from cartesian_moe_jax.training.step import make_train_step
from tests import tiny

FIELDS = {"sublayers": 1, "router": "hash", "balance_loss": 0.0, "backend": "reference"}
SHAPE = SubLayerShape(8, 4, top_k=2, d_expert=6, router="hash")
SHAPE_WITH_TABLE = dataclasses.replace(SHAPE, table_rows=12)
TOKENS = jnp.arange(24, dtype=jnp.int32).reshape(2, 12)


def config_of(**moe):
    return tiny.model_config(num_layers=3, moe=FIELDS | moe)


def shapes_of(config):
    return named_parameters(abstract_model(config, LAYOUTS["data"]))


def test_the_row_of_the_token_replaces_the_logits():
    table = jnp.log(jnp.asarray([[1.0, 2, 3, 4], [9.0, 1, 1, 3]]))
    router = Hash(SHAPE, rngs=nnx.Rngs(0))
    context = RouterContext(jnp.asarray([1, 0, 1]), table)
    routing = router.choose(router.scores(jnp.zeros((3, 8)), context))
    assert routing.expert_ids.tolist() == [[0, 3], [3, 2], [0, 3]]
    np.testing.assert_allclose(routing.weights[:2], [[0.75, 0.25], [4 / 7, 3 / 7]], rtol=1e-6)


def test_initial_rows_are_orders_of_the_experts_and_use_all_evenly():
    table = initial_table(nnx.Rngs(0), 4000, 8)[...]
    assert (jnp.sort(table, axis=1) == jnp.arange(8)).all()
    first = jnp.bincount(jnp.argmax(table, axis=1), length=8)
    assert (jnp.abs(first - 500) < 100).all()


def test_a_context_without_table_or_ids_is_an_error():
    router = Hash(SHAPE, rngs=nnx.Rngs(0))
    for context in (NO_CONTEXT, RouterContext(token_ids=jnp.zeros((3,), jnp.int32))):
        with pytest.raises(UserError, match="hash router needs token_ids and a table"):
            router.scores(jnp.zeros((3, 8)), context)


def test_one_table_for_the_model_or_one_for_each_sublayer():
    shared = {n: s.shape for n, s in shapes_of(config_of()).items() if "table" in n}
    assert shared == {"table": (384, 4)}
    own = {n: s.shape for n, s in shapes_of(config_of(table_per_sublayer=True)).items()}
    layers = ("segments/0", "segments/2")
    name = "blocks/0/feed_forward/sublayers/0/router/table"
    assert {n: s for n, s in own.items() if "table" in n} == {
        f"{layer}/{name}": (1, 384, 4) for layer in layers
    }
    assert not [name for name in shapes_of(config_of(interval=0)) if "table" in name]


@pytest.mark.parametrize("per_sublayer", [False, True])
def test_training_moves_all_but_the_table_and_the_unused_router(per_sublayer):
    config = config_of(table_per_sublayer=per_sublayer)
    optimizer = make_optimizer(OptimizerConfig(warmup_steps=0, weight_decay=0.5), steps=10)
    step = make_train_step(abstract_model(config, LAYOUTS["data"]), optimizer, config, 2)
    state = init_state(config, LAYOUTS["data"], optimizer, seed=0)
    after, _ = jax.jit(step)(state, TOKENS)
    still = {n for n, v in after.parameters.items() if (v == state.parameters[n]).all()}
    frozen = {n for n in state.parameters if n.endswith(("table", "router/unused"))}
    # Initial biases are 0 and move by their gradient alone, as all else does.
    assert still == frozen
    assert len(frozen) == 2 + (2 if per_sublayer else 1)
    paths, _ = jax.tree_util.tree_flatten_with_path(state.optimizer)
    held = {getattr(path[-1], "key", None) for path, _ in paths}
    assert held >= state.parameters.keys() - frozen
    assert not held & frozen


def test_an_optimizer_of_parameters_does_not_move_the_table():
    layer = CartesianProductLayer(SHAPE_WITH_TABLE, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(layer, optax.adamw(0.1), wrt=nnx.Param)
    before = [np.asarray(s.router.table[...]) for s in layer.sublayers]
    gate = np.asarray(layer.sublayers[0].experts.gate[...])

    def loss(layer):
        context = RouterContext(jnp.arange(12, dtype=jnp.int32))
        return jnp.sum(layer(jnp.ones((12, 8)), context)[0] ** 2)

    optimizer.update(layer, nnx.jit(nnx.grad(loss))(layer))
    for sublayer, table in zip(layer.sublayers, before, strict=True):
        np.testing.assert_array_equal(sublayer.router.table[...], table)
    assert np.abs(layer.sublayers[0].experts.gate[...] - gate).max() > 0
