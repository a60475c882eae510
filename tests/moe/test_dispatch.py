"""Dispatch and combine against a loop over tokens, with gradients and unused slots."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cartesian_moe_jax.kernels import FeedForwardWeights, grouped_feed_forward
from cartesian_moe_jax.moe.dispatch.local import LocalExchange
from cartesian_moe_jax.moe.routing import Routing

D = 5


def routing_of(ids, seed=0):
    ids = jnp.asarray(ids, jnp.int32)
    weights = jax.random.uniform(jax.random.key(seed), ids.shape)
    return Routing(ids, weights, weights)


CASES = {
    "mixed": [[0, 2], [2, 1], [1, 0], [2, 0], [0, 1]],
    "empty expert": [[0, 2], [2, 0], [0, 2]],
    "one hot expert": [[1, 1], [1, 1]],
    "unused slots": [[0, 3], [3, 3], [2, 3], [1, 0]],
    "one slot": [[2], [0], [2]],
    "one token": [[1, 0]],
}


def scale_by_expert(rows, group_sizes):
    """A stand-in for experts: expert e multiplies by e + 1; rows behind the live ones by 0."""
    factors = jnp.arange(1.0, group_sizes.shape[0] + 2).at[-1].set(0.0)
    rest = rows.shape[0] - jnp.sum(group_sizes)
    sizes = jnp.append(group_sizes, rest)
    return rows * jnp.repeat(factors, sizes, total_repeat_length=rows.shape[0])[:, None]


def through_exchange(x, routing):
    rows, sizes, plan = LocalExchange().dispatch(x, routing, 3)
    return LocalExchange().combine(scale_by_expert(rows, sizes), plan)


def by_hand(x, routing):
    factors = jnp.array([1.0, 2.0, 3.0, 0.0])[routing.expert_ids]
    return jnp.sum(factors * routing.weights, axis=1)[:, None] * x


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case):
    routing = routing_of(CASES[case])
    x = jax.random.normal(jax.random.key(1), (len(CASES[case]), D))
    np.testing.assert_allclose(through_exchange(x, routing), by_hand(x, routing), rtol=1e-5)

    def total(f, x, weights):
        return jnp.sum(jnp.sin(f(x, routing._replace(weights=weights))))

    ours, theirs = (
        jax.grad(lambda x, w, f=f: total(f, x, w), argnums=(0, 1))(x, routing.weights)
        for f in (through_exchange, by_hand)
    )
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_rows_are_sorted_stably_and_counted():
    routing = routing_of([[2, 0], [0, 3], [2, 1]])
    x = jnp.arange(3.0)[:, None] * jnp.ones((3, D))
    rows, sizes, _ = LocalExchange().dispatch(x, routing, 3)
    assert sizes.tolist() == [2, 1, 2]
    assert rows[:, 0].tolist() == [0, 1, 2, 0, 2, 1]


def test_bfloat16_rows_are_summed_in_float32():
    # 1 + 2^-8 is no bfloat16: a sum that rounds after each slot loses the small terms.
    routing = Routing(jnp.array([[0, 1, 2]]), jnp.array([[1.0, 2**-8, 2**-8]]), jnp.zeros((1, 3)))
    rows, _, plan = LocalExchange().dispatch(jnp.ones((1, D), jnp.bfloat16), routing, 3)
    combined = LocalExchange().combine(rows, plan)
    assert combined.dtype == jnp.bfloat16
    np.testing.assert_array_equal(combined.astype(jnp.float32), 1 + 2**-7)


@pytest.mark.parametrize("backend", ["reference", "tiled"])
def test_what_the_rows_of_unused_slots_hold_reaches_nothing(backend):
    routing = routing_of(CASES["unused slots"])
    routing = routing._replace(weights=jnp.where(routing.expert_ids == 3, 0, routing.weights))
    keys = jax.random.split(jax.random.key(1), 4)
    x = jax.random.normal(keys[0], (4, D))
    weights = FeedForwardWeights(
        None, jax.random.normal(keys[1], (3, D, 7)), jax.random.normal(keys[2], (3, 7, D))
    )

    def total(filler):
        def of(x, token_weights, weights):
            rows, sizes, plan = LocalExchange().dispatch(
                x, routing._replace(weights=token_weights), 3
            )
            live = jnp.arange(len(rows)) < jnp.sum(sizes)
            rows = jnp.where(live[:, None], rows, filler)
            rows = grouped_feed_forward(rows, sizes, weights, activation="gelu", backend=backend)
            return jnp.sum(jnp.sin(LocalExchange().combine(rows, plan)))

        arguments = (x, routing.weights, weights)
        return jax.jit(jax.value_and_grad(of, argnums=(0, 1, 2)))(*arguments)

    zeros, garbage = total(0.0), total(jnp.nan)
    for a, b in zip(jax.tree.leaves(zeros), jax.tree.leaves(garbage), strict=True):
        assert jnp.isfinite(b).all()
        np.testing.assert_array_equal(a, b)
    _, (_, d_weights, _) = zeros
    assert (d_weights[routing.expert_ids == 3] == 0).all()
