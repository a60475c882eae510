"""Top-p routing: who is kept, with what weight, and the unused slots on every exchange."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cartesian_moe_jax.models.parameters import named_parameters
from cartesian_moe_jax.moe.routers import TopP
from cartesian_moe_jax.moe.routing import NO_CONTEXT, Scores
from cartesian_moe_jax.moe.shape import SubLayerShape
from cartesian_moe_jax.moe.sublayer import MoESubLayer
from cartesian_moe_jax.parallel.layouts import layout_of
from cartesian_moe_jax.parallel.mesh import make_mesh
from tests import tiny


def shape_of(top_p=0.4, experts=4, **fields):
    fields = {"init_std": 0.5, "router": "top_p", "shared_expert": False, **fields}
    return SubLayerShape(8, experts, top_k=2, d_expert=6, top_p=top_p, **fields)


def choose(probabilities, top_p=0.4):
    p = jnp.asarray(probabilities, jnp.float32)
    return TopP(shape_of(top_p, p.shape[-1]), rngs=nnx.Rngs(0)).choose(Scores(jnp.log(p), p))


@pytest.mark.parametrize(
    "probabilities, ids, weights",
    [
        # The crossing expert is kept, whether it crosses by much or by little.
        ([0.1, 0.7, 0.15, 0.05], [1, 4], [0.7, 0]),
        ([0.35, 0.1, 0.3, 0.25], [0, 2], [0.35, 0.3]),
        ([0.25, 0.25, 0.25, 0.25], [0, 1], [0.25, 0.25]),
    ],
)
def test_experts_until_their_sum_passes_p(probabilities, ids, weights):
    routing = choose([probabilities])
    assert routing.expert_ids.tolist() == [ids]
    np.testing.assert_allclose(routing.weights, [weights], rtol=1e-6)


def test_an_expert_that_reaches_p_exactly_does_not_cross_it():
    assert choose([[0.5, 0.25, 0.125, 0.125]], top_p=0.5).expert_ids.tolist() == [[0, 1, 4]]


@pytest.mark.parametrize(
    "top_p, experts, slots",
    [(0.4, 16, 7), (0.4, 4, 2), (0.0, 4, 1), (1.0, 4, 4), (0.29, 100, 30), (0.9, 8, 8)],
)
def test_slots_suffice_for_the_most_even_probabilities(top_p, experts, slots):
    assert TopP.slots(shape_of(top_p, experts)) == slots
    routing = choose(np.full((1, experts), 1 / experts), top_p)
    assert routing.expert_ids.shape == (1, slots)


def by_hand(layer, x, top_p):
    """A loop over tokens and experts, with the choice made of concrete probabilities."""
    p = jax.nn.softmax(x @ layer.router.weight[...])
    gate, up, down = layer.experts.weights()
    every = jnp.einsum(
        "tef,efd->ted",
        jax.nn.silu(jnp.einsum("td,edf->tef", x, gate)) * jnp.einsum("td,edf->tef", x, up),
        down,
    )
    ranked = jnp.sort(p, axis=-1)[:, ::-1]
    least = jnp.max(jnp.where(jnp.cumsum(ranked, -1) > top_p, ranked, 0), axis=-1, keepdims=True)
    return jnp.sum(jnp.where(p >= least, p, 0)[..., None] * every, axis=1)


MESHES = {
    "local": tiny.parallel(layout="data"),
    "gather": tiny.parallel(layout="expert", expert=4),
    "all_to_all": tiny.parallel(layout="expert", expert=4, exchange="all_to_all"),
    "ragged": tiny.parallel(layout="expert", expert=4, exchange="ragged"),
    "weights come": tiny.parallel(layout="expert", expert=4, exchange="local"),
    "tensor": tiny.parallel(layout="expert_tensor", expert=2, tensor=2, exchange="all_to_all"),
}


@pytest.mark.parametrize("backend", ["reference", "tiled"])
@pytest.mark.parametrize("exchange", MESHES)
def test_values_and_gradients_on_eight_devices(exchange, backend):
    shape = shape_of(top_p=0.6, backend=backend)
    layer = MoESubLayer(shape, layout=layout_of(MESHES[exchange]), rngs=nnx.Rngs(1))
    x = 2 * jax.random.normal(jax.random.key(2), (32, 8))

    def ours(layer, x):
        return layer(x, NO_CONTEXT)[0]

    def total(f):
        return lambda layer, x: jnp.sum(jnp.sin(f(layer, x)))

    with jax.default_matmul_precision("highest"):
        with jax.set_mesh(make_mesh(MESHES[exchange])):
            _, stats = jax.jit(lambda layer, x: layer(x, NO_CONTEXT))(layer, x)
            found = jax.jit(jax.value_and_grad(total(ours), argnums=(0, 1)))(layer, x)
        hand = total(lambda layer, x: by_hand(layer, x, 0.6))
        expected = jax.jit(jax.value_and_grad(hand, argnums=(0, 1)))(layer, x)
    assert 1.1 < stats.experts_per_token() < 2.9, "slots must be unused, and used"
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(found[1][1], expected[1][1], rtol=1e-4, atol=1e-5)
    gradients = named_parameters(found[1][0])
    for name, gradient in named_parameters(expected[1][0]).items():
        np.testing.assert_allclose(gradients[name], gradient, rtol=1e-4, atol=1e-5, err_msg=name)


def test_the_balance_loss_is_one_when_even_however_many_are_chosen():
    layer = MoESubLayer(shape_of(0.6, experts=8), rngs=nnx.Rngs(0))
    layer.router.weight[...] = jnp.zeros_like(layer.router.weight[...])
    _, stats = layer(jax.random.normal(jax.random.key(0), (6, 8)), NO_CONTEXT)
    assert stats.experts_per_token() == 5
    np.testing.assert_allclose(stats.balance_loss, 1.0, rtol=1e-6)
