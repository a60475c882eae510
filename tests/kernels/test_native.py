"""The compiled experts where the tests that all backends share do not go."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from cartesian_moe_jax.kernels import ACTIVATIONS, FeedForwardWeights, grouped_feed_forward
from cartesian_moe_jax.kernels.dense import dense_feed_forward


def experts(sizes, d_model, d_expert, gated=True, scale=1.0, seed=0):
    """Rows that fill the groups, and weights."""
    keys = jax.random.split(jax.random.key(seed), 4)
    shapes = (len(sizes), d_model, d_expert), (len(sizes), d_expert, d_model)
    gate, up, down = (
        jax.random.normal(k, shapes[i]) * shapes[i][1] ** -0.5
        for k, i in zip(keys, (0, 0, 1), strict=False)
    )
    rows = scale * jax.random.normal(keys[3], (sum(sizes), d_model))
    return rows, FeedForwardWeights(gate if gated else None, up, down)


@functools.partial(jax.jit, static_argnames=("activation", "backend"))
def outcome(rows, sizes, weights, activation, backend):
    """The output, and the gradients of its sum of squares."""

    def loss(rows, weights):
        y = grouped_feed_forward(rows, sizes, weights, activation=activation, backend=backend)
        return jnp.sum(y**2), y

    return jax.grad(loss, argnums=(0, 1), has_aux=True)(rows, weights)


def assert_equals_tiled(sizes, d_model, d_expert, activation="swiglu", scale=1.0):
    gated = ACTIVATIONS[activation].gated
    rows, weights = experts(sizes, d_model, d_expert, gated, scale)
    sizes = jnp.array(sizes)
    ours, theirs = (outcome(rows, sizes, weights, activation, b) for b in ("native", "tiled"))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert jnp.abs(a - b).max() <= 1e-5 * jnp.abs(b).max()


@pytest.mark.parametrize(
    ("d_model", "d_expert"), [(1, 1), (7, 3), (16, 16), (17, 49), (48, 96), (33, 8), (200, 130)]
)
def test_widths_that_are_no_whole_vectors(d_model, d_expert):
    """Nor whole tiles, and groups around the height of a panel and of a piece."""
    assert_equals_tiled([1, 15, 16, 17, 47, 48, 49, 0, 193, 300], d_model, d_expert)


def test_groups_deeper_than_a_block_of_weight_gradients():
    assert_equals_tiled([600, 0, 257, 256], 24, 40)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("scale", [1e-3, 30.0])
def test_activations_where_they_are_flat_or_saturate(activation, scale):
    assert_equals_tiled([50, 70], 16, 32, activation, scale)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_row_that_is_not_a_number_spoils_its_own_output_alone(activation):
    rows, weights = experts([40, 40], 16, 32, ACTIVATIONS[activation].gated)
    rows = rows.at[7, 3].set(jnp.nan)
    y = grouped_feed_forward(
        rows, jnp.array([40, 40]), weights, activation=activation, backend="native"
    )
    assert jnp.isnan(y[7]).all() and not jnp.isnan(jnp.delete(y, 7, axis=0)).any()


def test_the_same_bits_every_time():
    rows, weights = experts([300, 5, 211, 0, 96], 64, 48)
    sizes = jnp.array([300, 5, 211, 0, 96])
    first = outcome(rows, sizes, weights, "swiglu", "native")
    for _ in range(5):
        again = outcome(rows, sizes, weights, "swiglu", "native")
        assert all(
            np.array_equal(a, b)
            for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True)
        )


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_one_network_on_all_rows(activation):
    """`dense_feed_forward` on one device, where it is compiled, and on a mesh, where it is not."""
    chosen = ACTIVATIONS[activation]
    x, weights = experts([60], 24, 20, chosen.gated)
    x = x.reshape(3, 20, 24)
    gate, up, down = (None if w is None else w[0] for w in weights)

    def run(x):
        y, pull = jax.vjp(lambda *a: dense_feed_forward(*a, chosen), x, gate, up, down)
        return y, pull(y)

    one = jax.jit(run).lower(x).compile()
    with jax.set_mesh(jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))):
        several = jax.jit(run).lower(x).compile()
    assert "cartesian_moe_forward" in one.as_text()
    assert "cartesian_moe_forward" not in several.as_text()
    for a, b in zip(jax.tree.leaves(one(x)), jax.tree.leaves(several(x)), strict=True):
        assert jnp.abs(a - b).max() <= 1e-5 * jnp.abs(b).max()
