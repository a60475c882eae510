"""Which experts each token uses, told where the context asks for it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cartesian_moe_jax.config import ParallelConfig
from cartesian_moe_jax.models.build import build_model
from cartesian_moe_jax.models.parameters import named_parameters, with_parameters
from cartesian_moe_jax.moe.cartesian import CartesianProductLayer
from cartesian_moe_jax.moe.intervention import no_intervention
from cartesian_moe_jax.moe.routing import RouterContext
from cartesian_moe_jax.moe.shape import SubLayerShape
from cartesian_moe_jax.moe.sublayer import MoESubLayer
from cartesian_moe_jax.parallel.layouts import LAYOUTS
from cartesian_moe_jax.parallel.mesh import make_mesh
from tests import tiny

EXPERTS, TOKENS = 6, 12
SHAPE = SubLayerShape(d_model=8, num_experts=EXPERTS, top_k=2, d_expert=4, init_std=0.5)
X = jax.random.normal(jax.random.key(1), (TOKENS, SHAPE.d_model))
ASKED = RouterContext(keep_choices=True)


def context_of(router):
    """Token ids and a table, which the hash router reads."""
    table = jax.random.permutation(
        jax.random.key(2), jnp.tile(jnp.arange(6.0), (5, 1)), axis=1, independent=True
    )
    context = RouterContext(jnp.arange(TOKENS) % 5, table) if router == "hash" else RouterContext()
    return dataclasses.replace(context, keep_choices=True)


@pytest.mark.parametrize("router", ["softmax_top_k", "top_p", "hash"])
def test_choices_are_the_experts_in_the_slots_of_each_token(router):
    shape = dataclasses.replace(SHAPE, router=router, top_p=0.5)
    layer, context = MoESubLayer(shape, rngs=nnx.Rngs(0)), context_of(router)
    update, stats = layer(X, context)
    expected = np.zeros((TOKENS, EXPERTS), bool)
    ids = np.asarray(layer.router.choose(layer.router.scores(X, context)).expert_ids)
    for token, slots in enumerate(ids):
        for expert in slots[slots < EXPERTS]:
            expected[token, expert] = True
    np.testing.assert_array_equal(stats.choices, expected)
    assert len(set(expected.sum(-1))) == (2 if router == "top_p" else 1)
    not_asked, others = layer(X, dataclasses.replace(context, keep_choices=False))
    assert others.choices is None
    np.testing.assert_array_equal(update, not_asked)


def test_choices_are_those_that_an_intervention_leaves():
    removed = jnp.zeros((2, EXPERTS), bool).at[:, 3].set(True)
    wrong = jax.tree.map(lambda leaf: leaf[0], no_intervention(1, 2, EXPERTS))
    wrong = wrong._replace(removed=removed, random_share=jnp.ones(2))
    layer = CartesianProductLayer(SHAPE, rngs=nnx.Rngs(0))
    plain = layer(X, ASKED)[1].choices
    disturbed = layer(X, dataclasses.replace(ASKED, intervention=wrong))[1].choices
    assert plain.shape == disturbed.shape == (2, TOKENS, EXPERTS)
    assert plain[..., 3].any()
    assert not disturbed[..., 3].any()
    assert (disturbed.sum(-1) == 2).all()


def test_the_question_is_no_leaf_and_stays_static_where_a_context_is_an_argument():
    assert jax.tree.leaves(ASKED) == []
    context = dataclasses.replace(ASKED, token_ids=jnp.arange(TOKENS))
    doubled = jax.tree.map(lambda leaf: 2 * leaf, context)
    assert doubled.keep_choices is True
    np.testing.assert_array_equal(doubled.token_ids, 2 * jnp.arange(TOKENS))
    layer = CartesianProductLayer(SHAPE, rngs=nnx.Rngs(0))
    run = jax.jit(lambda layer, x, context: layer(x, context)[1].choices)
    assert run(layer, X, RouterContext()) is None
    np.testing.assert_array_equal(run(layer, X, ASKED), layer(X, ASKED)[1].choices)


@pytest.mark.parametrize("remat", ["none", "full"])
def test_they_come_stacked_over_the_moe_layers_of_all_segments(remat):
    # d | c d c d | c: three segments, three MoE layers.
    moe = {"offset": 1, "sublayers": 3, "backend": "reference"}
    config = tiny.model_config(num_layers=6, init_std=0.3, remat=remat, moe=moe)
    model, tokens = tiny.model(config), jax.random.randint(jax.random.key(0), (2, 12), 0, 256)
    hidden = jax.jit(
        lambda model, tokens, keep: model.hidden(tokens, keep_choices=keep), static_argnums=2
    )
    _, stats = hidden(model, tokens, True)
    assert stats.choices.shape == (3, 3, 24, 4)
    np.testing.assert_allclose(stats.choices.mean(2), stats.load, rtol=1e-6)
    assert len({tuple(np.ravel(load)) for load in np.asarray(stats.load)}) == 3
    assert hidden(model, tokens, False)[1].choices is None


@pytest.mark.long
def test_gradients_are_none_of_their_business():
    config = tiny.model_config(num_layers=1, init_std=0.3, moe={"backend": "reference"})
    model, tokens = tiny.model(config), jnp.arange(24).reshape(2, 12)

    def total(parameters, keep):
        hidden, stats = with_parameters(model, parameters).hidden(tokens, keep_choices=keep)
        return jnp.sum(jnp.sin(hidden)), stats.choices

    gradient = jax.grad(total, has_aux=True)  # not compiled as a whole: fusions may differ
    (plain, nothing), (asked, choices) = (
        gradient(named_parameters(model), k) for k in (False, True)
    )
    assert nothing is None
    assert choices.shape == (1, 2, 24, 4)
    jax.tree.map(np.testing.assert_array_equal, plain, asked)


@pytest.mark.parametrize(
    "layout, sizes", [("data", {"data": 8}), ("expert", {"data": 2, "expert": 4})]
)
def test_tokens_keep_their_order_on_several_devices(layout, sizes):
    config = tiny.model_config(num_layers=1, init_std=0.3, moe={"backend": "reference"})
    parameters = named_parameters(tiny.model(config))
    tokens = jax.random.randint(jax.random.key(0), (8, 16), 0, 256)

    def choices(layout):
        model = with_parameters(build_model(config, LAYOUTS[layout], seed=0), parameters)
        return jax.jit(lambda t: model.hidden(t, keep_choices=True)[1].choices)(tokens)

    alone = choices("data")
    mesh = make_mesh(ParallelConfig(layout=layout, **({"data": 1} | sizes)))
    with jax.set_mesh(mesh):
        np.testing.assert_array_equal(choices(layout), alone)
