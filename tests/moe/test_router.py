"""The router and its losses, against numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cartesian_moe_jax.moe.balance import count_choices, load_balance_loss, routing_stats, z_loss
from cartesian_moe_jax.moe.routers.softmax_top_k import SoftmaxTopK
from cartesian_moe_jax.moe.routing import NO_CONTEXT, Scores
from cartesian_moe_jax.moe.shape import SubLayerShape


def scores_of(logits):
    logits = jnp.asarray(logits, jnp.float32)
    return Scores(logits, jax.nn.softmax(logits))


def router(top_k, experts=4):
    shape = SubLayerShape(8, experts, top_k, d_expert=1, init_std=0.1)
    return SoftmaxTopK(shape, rngs=nnx.Rngs(0))


def test_top_two_are_renormalised():
    routing = router(2).choose(scores_of([[0.0, np.log(3.0), np.log(4.0), 0.0]]))
    assert routing.expert_ids.tolist() == [[2, 1]]
    np.testing.assert_allclose(routing.weights, [[4 / 7, 3 / 7]], rtol=1e-6)


def test_top_one_keeps_its_probability():
    routing = router(1).choose(scores_of([[0.0, np.log(3.0), np.log(4.0), 0.0]]))
    np.testing.assert_allclose(routing.weights, [[4 / 9]], rtol=1e-6)


def test_scores_are_float32_for_bfloat16_tokens():
    scores = router(2).scores(jnp.ones((3, 8), jnp.bfloat16), NO_CONTEXT)
    assert scores.logits.dtype == scores.probabilities.dtype == jnp.float32


def test_load_balance_loss_is_one_when_uniform_and_E_over_k_when_collapsed():
    uniform = load_balance_loss(jnp.full(8, 1 / 8), jnp.full(8, 2 / 8))
    collapsed = load_balance_loss(
        jnp.array([0.5, 0.5, 0, 0, 0, 0, 0, 0.0]), jnp.array([1.0, 1, 0, 0, 0, 0, 0, 0])
    )
    np.testing.assert_allclose([uniform, collapsed], [1.0, 4.0], rtol=1e-6)


def test_load_balance_loss_is_its_formula():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(6), size=40).astype(np.float32)
    k = 3
    chosen = np.argsort(-probabilities)[:, :k]
    f = np.array([(chosen == e).sum(1).mean() for e in range(6)])
    expected = 6 / k * np.sum(probabilities.mean(0) * f)
    loss = load_balance_loss(
        jnp.asarray(probabilities.mean(0)), count_choices(jnp.asarray(chosen), 6) / 40
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_unused_slots_count_nowhere():
    ids = jnp.array([[0, 4], [4, 4], [3, 0]])
    assert count_choices(ids, 4).tolist() == [2, 0, 0, 1]


def test_z_loss_is_the_mean_squared_logsumexp():
    logits = jnp.log(jnp.array([[1.0, 2, 3], [4.0, 5, 6]]))
    np.testing.assert_allclose(z_loss(logits), (np.log(6) ** 2 + np.log(15) ** 2) / 2, rtol=1e-6)


def test_stats_of_a_collapsed_router_show_it():
    scores = scores_of([[9.0, 9, 0, 0]] * 5)
    load = count_choices(router(2).choose(scores).expert_ids, 4) / 5
    stats = routing_stats(scores, load, jnp.zeros(()))
    assert stats.relative_load().tolist() == [2, 2, 0, 0]
    assert stats.balance_loss > 1.99
    np.testing.assert_allclose(stats.entropy, np.log(2), atol=5e-3)


@pytest.mark.parametrize("tokens", [1, 7])
def test_gradient_reaches_the_router_through_weights_alone(tokens):
    layer = router(2)
    x = jax.random.normal(jax.random.key(1), (tokens, 8))

    def first_weight(layer):
        return jnp.sum(layer.choose(layer.scores(x, NO_CONTEXT)).weights[:, 0])

    gradient = jax.grad(first_weight)(layer).weight[...]
    assert float(jnp.max(jnp.abs(gradient))) > 1e-3
