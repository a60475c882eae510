"""What exchanges drop when their buffers overflow, and that they drop nothing without a bound."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from cartesian_moe_jax.moe.dispatch import exchange_of
from cartesian_moe_jax.moe.dispatch.survivors import fitting
from cartesian_moe_jax.moe.dispatch.swap import Chunks
from cartesian_moe_jax.moe.routing import RouterContext, Routing
from cartesian_moe_jax.moe.shape import SubLayerShape
from cartesian_moe_jax.moe.sublayer import MoESubLayer
from cartesian_moe_jax.parallel.layouts import layout_of
from cartesian_moe_jax.parallel.mesh import make_mesh
from tests import tiny

DEVICES, EXPERTS, TOKENS, SLOTS, D = 4, 8, 6, 3, 5
HERE = EXPERTS // DEVICES
EXCHANGES = ("gather", "all_to_all", "ragged")
FACTORS = np.arange(1.0, EXPERTS + 1)
"""Expert e multiplies by e + 1."""


def routing_of(seed, *favourites):
    """Distinct experts for the tokens of all devices, some slots unused; weights sum to one.

    Priorities are other numbers than weights, and all different.
    """
    rng = np.random.default_rng(seed)
    chance = np.ones(EXPERTS)
    chance[list(favourites)] = 16
    chance /= chance.sum()
    tokens = DEVICES * TOKENS
    ids = np.stack([rng.choice(EXPERTS, SLOTS, replace=False, p=chance) for _ in range(tokens)])
    ids[rng.random((tokens, SLOTS)) < 0.15] = EXPERTS
    weights = np.where(ids < EXPERTS, rng.uniform(0.2, 1, ids.shape), 0)
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-9)
    priority = rng.permutation(ids.size).reshape(ids.shape) / ids.size
    return ids.astype(np.int32), weights.astype(np.float32), priority.astype(np.float32)


def parallel(exchange, factor):
    return tiny.parallel(layout="expert", data=1, expert=4, exchange=exchange, bucket_factor=factor)


@functools.cache
def compiled(exchange, factor, bounded):
    settings = parallel(exchange, factor)
    mesh = make_mesh(settings, jax.devices()[:DEVICES])
    chosen = exchange_of(layout_of(settings))

    def on_each_device(x, *routing):
        routing = Routing(*routing)
        rows, sizes, plan = chosen.dispatch(x, routing, EXPERTS, bounded=bounded)
        first = jax.lax.axis_index("expert") * HERE
        expert = first + jnp.searchsorted(jnp.cumsum(sizes), jnp.arange(len(rows)), side="right")
        live = jnp.arange(len(rows)) < jnp.sum(sizes)
        rows = jnp.where(live[:, None], rows * (expert + 1.0)[:, None], 0)
        dropped = jax.lax.pcast(plan.dropped, ("expert",), to="varying") * 1
        return chosen.combine(rows, plan), jnp.reshape(dropped, (1,))

    split = P("expert")
    run = jax.shard_map(
        on_each_device, mesh=mesh, in_specs=(split,) * 4, out_specs=(split, split), check_vma=False
    )

    def loss(x, weights, ids, priority):
        update, dropped = run(x, ids, weights, priority)
        return jnp.sum(jnp.sin(update)), (update, dropped)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))


def by_hand(x, ids, weights, kept):
    """Each token's sum over the pairs that are kept."""
    factors = jnp.asarray(np.append(FACTORS, 0.0))[ids]
    return jnp.sum(jnp.where(kept, factors * weights, 0), axis=1)[:, None] * x


def kept_of(exchange, ids, priority, factor):
    """Which pairs the contract says are computed: of each buffer's, those of highest priority."""
    kept, limit = np.zeros(ids.shape, bool), int(np.ceil(factor * TOKENS * SLOTS))
    for target in range(DEVICES):
        is_here = ids // HERE == target
        if exchange != "gather":
            is_here &= sent_to(exchange, is_here, priority, factor)[:, None]
        pairs = np.argwhere(is_here)
        best = np.argsort(-priority[is_here])[:limit]
        kept[tuple(pairs[best].T)] = True
    return kept


def sent_to(exchange, is_here, priority, factor):
    """Which tokens are sent to a device, of those that want to be: they have pairs there."""
    sent, best = np.zeros(len(is_here), bool), np.where(is_here, priority, -1).max(axis=1)
    wants = is_here.any(axis=1).reshape(DEVICES, TOKENS).sum(axis=1)
    room = np.full(DEVICES, int(np.ceil(factor * TOKENS * SLOTS / DEVICES)))
    if exchange == "ragged":  # one buffer, of which each source gets a share
        most = int(np.ceil(factor * TOKENS * SLOTS))
        room = wants * most // max(wants.sum(), most)
        cut = np.flatnonzero(room < wants)
        room[cut[: most - room.sum()]] += 1
    for source, rows in enumerate(room):
        tokens = source * TOKENS + np.arange(TOKENS)
        tokens = tokens[is_here[tokens].any(axis=1)]
        sent[tokens[np.argsort(-best[tokens])][:rows]] = True
    return sent


def loss_by_hand(x, weights, ids, kept):
    """Of the pairs that are kept, with as much weight as all of the token's had."""
    left = jnp.sum(jnp.where(kept, weights, 0), axis=1, keepdims=True)
    whole = jnp.sum(jnp.where(ids < EXPERTS, weights, 0), axis=1, keepdims=True)
    update = by_hand(x, ids, weights * whole / jnp.where(left > 0, left, 1), kept)
    return jnp.sum(jnp.sin(update)), update


@pytest.mark.parametrize("favourites", [(), (3,)], ids=["even", "hot"])
@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("bounded, factor", [(True, 0.0), (False, 0.5)])
def test_nothing_is_dropped_without_a_bound(exchange, bounded, factor, favourites):
    ids, weights, priority = routing_of(1, *favourites)
    x = jax.random.normal(jax.random.key(0), (DEVICES * TOKENS, D))
    (_, (update, dropped)), found = compiled(exchange, factor, bounded)(x, weights, ids, priority)
    np.testing.assert_allclose(update, by_hand(x, ids, weights, True), rtol=1e-5, atol=1e-6)
    assert not dropped.any()
    expected = jax.grad(
        lambda x, w: jnp.sum(jnp.sin(by_hand(x, ids, w, ids < EXPERTS))), argnums=(0, 1)
    )(x, weights)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("factor", [0.3, 0.5, 1.0])
def test_pairs_beyond_the_bound_are_dropped_and_their_weights_given_to_others(exchange, factor):
    ids, weights, priority = routing_of(2, 2, 3)
    kept, used = kept_of(exchange, ids, priority, factor), ids < EXPERTS
    lost = used & ~kept
    assert (lost.any(axis=1) & kept.any(axis=1)).any(), "some tokens must have other experts"
    assert factor > 0.3 or (lost.any(axis=1) & ~kept.any(axis=1)).any(), "some must have none"
    x = jax.random.normal(jax.random.key(0), (DEVICES * TOKENS, D))
    (_, (update, dropped)), found = compiled(exchange, factor, True)(x, weights, ids, priority)
    (_, wanted), expected = jax.value_and_grad(loss_by_hand, argnums=(0, 1), has_aux=True)(
        x, weights, ids, kept
    )
    np.testing.assert_allclose(update, wanted, rtol=1e-5, atol=1e-6)
    assert dropped.sum() == lost.sum()
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_all_experts_of_a_full_device_learn(exchange):
    settings, shape = (
        parallel(exchange, 2.0),
        SubLayerShape(D, EXPERTS, 2, 6, shared_expert=False, init_std=0.3),
    )
    layer = MoESubLayer(shape, layout=layout_of(settings), rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (64, D)).at[:, 0].set(4.0)
    # Experts 0 and 1 are everybody's, and which of them is the first differs.
    layer.router.weight[...] = layer.router.weight[...].at[0].set(2.0 * (jnp.arange(EXPERTS) < 2))

    def loss(layer):
        update, stats = layer(x, RouterContext(train=True))
        return jnp.sum(jnp.sin(update)), stats

    with jax.set_mesh(make_mesh(settings, jax.devices()[:DEVICES])):
        gradient, stats = jax.jit(jax.grad(loss, has_aux=True))(layer)
    assert stats.load[:2].min() > 0.9, "all tokens want the experts of the first device"
    assert 0.4 < stats.dropped < 0.6
    moved = jnp.linalg.norm(gradient.experts.up[...], axis=(1, 2))
    assert moved[:2].min() > 0.1 * moved[:2].max()


@pytest.mark.parametrize("limit", [1, 5, 11])
def test_what_fits_is_of_the_highest_priority_and_of_pairs_alike_the_first(limit):
    rng = np.random.default_rng(limit)
    ids = rng.integers(0, 4, (8, 3), np.int32)  # 3: unused
    priority = rng.choice(np.float32([-2, 0, 1e-30, 0.25, 0.5]), ids.shape)
    ranked = np.argsort(-np.where(ids < 3, priority, -np.inf), axis=None, kind="stable")
    kept = np.isin(np.arange(ids.size), ranked[:limit]).reshape(ids.shape)
    found = fitting(Routing(*map(jnp.asarray, (ids, priority, priority))), 3, limit)
    np.testing.assert_array_equal(found.expert_ids, np.where(kept, ids, 3))
    np.testing.assert_array_equal(found.weights, np.where(kept, priority, 0))


def test_senders_to_a_full_device_are_cut_alike():
    wanted = jnp.array([[4, 0, 7], [0, 9, 7], [2, 9, 7]])
    chunks = Chunks.of(wanted, 10)
    np.testing.assert_array_equal(chunks.sizes, [[4, 0, 4], [0, 5, 3], [2, 5, 3]])
    np.testing.assert_array_equal(chunks.sent_from, [[0, 4, 4], [0, 0, 9], [0, 2, 11]])
    np.testing.assert_array_equal(chunks.sent_to, [[0, 0, 0], [4, 0, 4], [4, 5, 7]])


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_programs_that_cannot_drop_do_not_choose(exchange):
    ids, weights, priority = routing_of(1)
    arrays = (jnp.ones((DEVICES * TOKENS, D)), weights, ids, priority)

    def has_choice(factor, bounded):
        return "cond[" in str(compiled(exchange, factor, bounded).trace(*arrays).jaxpr)

    assert has_choice(0.5, True)
    assert not has_choice(0.0, True)
    assert not has_choice(0.5, False)
