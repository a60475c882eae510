"""Routing that is made to go wrong, where the right answer is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cartesian_moe_jax.evaluation.perplexity import make_evaluation_step
from cartesian_moe_jax.models.build import abstract_model
from cartesian_moe_jax.models.parameters import named_parameters
from cartesian_moe_jax.moe.cartesian import CartesianProductLayer
from cartesian_moe_jax.moe.intervention import intervene, no_intervention, swapped
from cartesian_moe_jax.moe.routers import ROUTERS
from cartesian_moe_jax.moe.routing import RouterContext, Scores
from cartesian_moe_jax.moe.shape import SubLayerShape
from cartesian_moe_jax.parallel.layouts import LAYOUTS
from tests import tiny

EXPERTS = 6
SHAPE = SubLayerShape(d_model=8, num_experts=EXPERTS, top_k=2, d_expert=4, init_std=0.5)
# Token 0 prefers 5 to 4 to 3 ..., token 1 the other way round.
LOGITS = jnp.array([[0.0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0]])


def plain(index=(0, 0), **changes):
    """An intervention of one sub-layer, with some fields changed."""
    stacked = no_intervention(1, 1, EXPERTS)
    one = jax.tree.map(lambda leaf: leaf[index], stacked)
    return one._replace(**{name: jnp.asarray(value) for name, value in changes.items()})


def chosen(logits=LOGITS, router="softmax_top_k", **changes):
    """The routing of given logits under an intervention."""
    scores = intervene(Scores(logits, jax.nn.softmax(logits)), plain(**changes))
    routing = ROUTERS[router](SHAPE, rngs=nnx.Rngs(0)).choose(scores)
    return swapped(routing, scores.swap)


def test_no_intervention_changes_nothing():
    scores = Scores(LOGITS, jax.nn.softmax(LOGITS))
    expected = ROUTERS["softmax_top_k"](SHAPE, rngs=nnx.Rngs(0)).choose(scores)
    jax.tree.map(np.testing.assert_array_equal, chosen(), expected)


@pytest.mark.parametrize("count, ids", [(0, [5, 4]), (1, [4, 3]), (3, [2, 1]), (4, [1, 0])])
def test_the_most_probable_experts_are_disabled_token_by_token(count, ids):
    routing = chosen(disabled=count)
    np.testing.assert_array_equal(routing.expert_ids, [ids, [5 - i for i in ids]])
    # Neighbours differ by one in their logits: e / (1 + e) and the rest, whichever are left.
    share = np.e / (1 + np.e)
    np.testing.assert_allclose(routing.weights, [[share, 1 - share]] * 2, rtol=1e-5)


def test_top_p_is_of_the_probability_that_is_left():
    logits = jnp.log(jnp.array([[0.5, 0.2, 0.15, 0.1, 0.04, 0.01]]))
    np.testing.assert_array_equal(chosen(logits, "top_p").expert_ids, [[0, 6, 6]])
    # 0.4, 0.3, 0.2, ... remain: the first does not pass p = 0.4 by itself.
    routing = chosen(logits, "top_p", disabled=1)
    np.testing.assert_array_equal(routing.expert_ids, [[1, 2, 6]])
    np.testing.assert_allclose(routing.weights, [[0.4, 0.3, 0.0]], rtol=1e-5)


def test_removed_experts_are_never_chosen():
    removed = np.isin(np.arange(EXPERTS), (5, 3))
    np.testing.assert_array_equal(chosen(removed=removed).expert_ids, [[4, 2], [0, 1]])
    # Disabling counts among those that are left.
    routing = chosen(removed=removed, disabled=1)
    np.testing.assert_array_equal(routing.expert_ids, [[2, 1], [1, 2]])


def test_random_experts_are_distinct_uniform_and_keep_the_weights():
    logits = jnp.broadcast_to(LOGITS[0], (6000, EXPERTS))
    as_trained, routing = chosen(logits), chosen(logits, random_share=1.0)
    np.testing.assert_array_equal(routing.weights, as_trained.weights)
    ids = np.asarray(routing.expert_ids)
    assert (ids[:, 0] != ids[:, 1]).all()
    pairs = np.zeros((EXPERTS, EXPERTS))
    np.add.at(pairs, (ids[:, 0], ids[:, 1]), 1)
    expected = 6000 / (EXPERTS * (EXPERTS - 1))
    off_diagonal = pairs[~np.eye(EXPERTS, dtype=bool)]
    assert np.abs(off_diagonal - expected).max() < 5 * np.sqrt(expected)


def test_a_share_of_the_tokens_is_routed_at_random_and_never_to_removed_experts():
    logits = jnp.broadcast_to(LOGITS[0], (6000, EXPERTS))
    removed = np.arange(EXPERTS) == 1
    ids = np.asarray(chosen(logits, random_share=0.3, removed=removed).expert_ids)
    assert not (ids == 1).any()
    # A random pair of the five that are left is (5, 4) once in 20.
    moved = (ids != [5, 4]).any(-1).mean()
    assert moved == pytest.approx(0.3 * 19 / 20, abs=0.03)


def test_unused_slots_stay_unused():
    logits = jnp.log(jnp.array([[0.5, 0.2, 0.15, 0.1, 0.04, 0.01]]))
    routing = chosen(logits, "top_p", random_share=1.0)
    assert (np.asarray(routing.expert_ids) == 6).tolist() == [[False, True, True]]


def test_a_layer_under_an_intervention_equals_a_sum_by_hand():
    """Disable one expert in the second sub-layer alone."""
    layer = CartesianProductLayer(SHAPE, rngs=nnx.Rngs(0))
    h = jax.random.normal(jax.random.key(1), (12, SHAPE.d_model))
    stacked = jax.tree.map(lambda leaf: leaf[0], no_intervention(1, 2, EXPERTS))
    stacked = stacked._replace(disabled=jnp.array([0, 1]))
    out, stats = layer(h, RouterContext(intervention=stacked))
    middle = h + layer.sublayers[0](layer.norms[0](h), RouterContext())[0]
    x, sublayer = layer.norms[1](middle), layer.sublayers[1]
    logits = np.array(x @ sublayer.router.weight[...])
    logits[np.arange(12), logits.argmax(-1)] = -np.inf
    probabilities = np.exp(logits - logits.max(-1, keepdims=True))
    update = np.zeros((12, SHAPE.d_model))
    for token, p in enumerate(probabilities):
        best = np.argsort(-p)[:2]
        for expert in best:
            gate, up, down = (w[expert] for w in sublayer.experts.weights())
            hidden = jax.nn.silu(x[token] @ gate) * (x[token] @ up)
            update[token] += p[expert] / p[best].sum() * np.asarray(hidden @ down)
    expected = middle + sublayer.shared_expert.mix(x, jnp.asarray(update, jnp.float32))
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
    assert stats.load.shape == (2, EXPERTS)


def test_one_program_serves_all_and_each_layer_has_its_own():
    config = tiny.model_config(num_layers=4, init_std=0.3, moe={"interval": 1})
    model = tiny.model(config)
    step = jax.jit(make_evaluation_step(abstract_model(config, LAYOUTS["data"]), config))
    tokens = jax.random.randint(jax.random.key(0), (2, 17), 0, 256)
    mask = jnp.ones((2, 16), bool)
    nothing = no_intervention(4, 2, 4)

    def nats(**changes):
        changed = nothing._replace(**{name: jnp.asarray(v) for name, v in changes.items()})
        return float(step(named_parameters(model), tokens, mask, changed))

    undisturbed = float(step(named_parameters(model), tokens, mask))
    compiled = step._cache_size()
    results = {"nothing": nats()}
    for layer in range(4):
        for sublayer in range(2):
            disabled = np.zeros((4, 2), np.int32)
            disabled[layer, sublayer] = 1
            results[layer, sublayer] = nats(disabled=disabled)
    results["random"] = nats(random_share=np.full((4, 2), 0.5, np.float32))
    assert step._cache_size() == compiled + 1
    assert results.pop("nothing") == pytest.approx(undisturbed, rel=1e-6)
    assert undisturbed not in results.values()
    assert len(set(results.values())) == len(results), "each changes another sub-layer"


@pytest.mark.parametrize("layout", ["data", "expert"])
def test_devices_share_one_intervention(layout):
    """Random choices are made in the global view: the same on every layout."""
    from cartesian_moe_jax.config import ParallelConfig
    from cartesian_moe_jax.parallel.mesh import make_mesh

    config = tiny.model_config(num_layers=1, init_std=0.3)
    sizes = {"data": {"data": 8}, "expert": {"data": 2, "expert": 4}}[layout]
    mesh = make_mesh(ParallelConfig(layout=layout, **({"data": 1} | sizes)))
    tokens = jax.random.randint(jax.random.key(0), (8, 17), 0, 256)
    mask = jnp.ones((8, 16), bool)
    wrong = no_intervention(1, 2, 4)._replace(random_share=jnp.full((1, 2), 0.5))

    def nats(layout):
        step = make_evaluation_step(abstract_model(config, LAYOUTS[layout]), config)
        return jax.jit(step)(named_parameters(tiny.model(config)), tokens, mask, wrong)

    alone = nats("data")
    with jax.set_mesh(mesh):
        np.testing.assert_allclose(nats(layout), alone, rtol=1e-5)
