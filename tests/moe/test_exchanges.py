"""What exchanges drop when their buffers overflow, and that they drop nothing without a bound."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from cartesian_moe_jax.moe.dispatch import exchange_of
from cartesian_moe_jax.moe.routing import Routing
from cartesian_moe_jax.parallel.layouts import layout_of
from cartesian_moe_jax.parallel.mesh import make_mesh
from tests import tiny

DEVICES, EXPERTS, TOKENS, SLOTS, D = 4, 8, 6, 3, 5
HERE = EXPERTS // DEVICES
FACTORS = np.arange(1.0, EXPERTS + 1)
"""Expert e multiplies by e + 1."""


def routing_of(seed, favourite=None):
    """Distinct experts for the tokens of all devices, some slots unused; weights sum to one."""
    rng = np.random.default_rng(seed)
    chance = np.full(EXPERTS, 0.3 / (EXPERTS - 1)) if favourite is not None else np.ones(EXPERTS)
    if favourite is not None:
        chance[favourite] = 0.7
    chance /= chance.sum()
    tokens = DEVICES * TOKENS
    ids = np.stack([rng.choice(EXPERTS, SLOTS, replace=False, p=chance) for _ in range(tokens)])
    ids[rng.random((tokens, SLOTS)) < 0.15] = EXPERTS
    weights = np.where(ids < EXPERTS, rng.uniform(0.2, 1, ids.shape), 0)
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-9)
    return ids.astype(np.int32), weights.astype(np.float32)


def parallel(exchange, factor):
    return tiny.parallel(layout="expert", data=1, expert=4, exchange=exchange, bucket_factor=factor)


@functools.cache
def compiled(exchange, factor, bounded):
    settings = parallel(exchange, factor)
    mesh = make_mesh(settings, jax.devices()[:DEVICES])
    chosen = exchange_of(layout_of(settings))

    def on_each_device(x, ids, weights):
        routing = Routing(ids, weights, weights)
        rows, sizes, plan = chosen.dispatch(x, routing, EXPERTS, bounded=bounded)
        first = jax.lax.axis_index("expert") * HERE
        expert = first + jnp.searchsorted(jnp.cumsum(sizes), jnp.arange(len(rows)), side="right")
        live = jnp.arange(len(rows)) < jnp.sum(sizes)
        rows = jnp.where(live[:, None], rows * (expert + 1.0)[:, None], 0)
        dropped = jax.lax.pcast(plan.dropped, ("expert",), to="varying") * 1
        return chosen.combine(rows, plan), jnp.reshape(dropped, (1,))

    split = P("expert")
    run = jax.shard_map(
        on_each_device, mesh=mesh, in_specs=(split,) * 3, out_specs=(split, split), check_vma=False
    )

    def loss(x, weights, ids):
        update, dropped = run(x, ids, weights)
        return jnp.sum(jnp.sin(update)), (update, dropped)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))


def by_hand(x, ids, weights, kept):
    """Each token's sum over the pairs that are kept."""
    factors = jnp.asarray(np.append(FACTORS, 0.0))[ids]
    return jnp.sum(jnp.where(kept, factors * weights, 0), axis=1)[:, None] * x


def kept_of(exchange, ids, weights, factor):
    """Which pairs are computed, and which of the others their own device knows it did not send."""
    sent = np.zeros(ids.shape, bool)
    copies = {}
    bucket = min(TOKENS, int(np.ceil(factor * TOKENS * SLOTS / DEVICES)))
    most = min(DEVICES * TOKENS, int(np.ceil(factor * TOKENS * SLOTS)))
    taken = np.zeros(DEVICES, int)
    for source in range(DEVICES):
        tokens = range(source * TOKENS, (source + 1) * TOKENS)
        for target in range(DEVICES):
            wanted = [(t, np.flatnonzero(ids[t] // HERE == target)) for t in tokens]
            wanted = [(t, slots) for t, slots in wanted if slots.size]
            wanted.sort(key=lambda c: -weights[c[0], c[1][0]])  # its first slot's weight
            room = bucket if exchange == "all_to_all" else most - taken[target]
            for token, slots in wanted[:room]:
                sent[token, slots] = True
                copies.setdefault(target, []).append((token, slots))
            taken[target] += min(len(wanted), room)
    kept, limit = sent.copy(), int(np.ceil(factor * TOKENS * SLOTS))
    for arrived in copies.values():
        rows = [(ids[t, s], i, t, s) for i, (t, slots) in enumerate(arrived) for s in slots]
        for _, _, token, slot in sorted(rows)[limit:]:
            kept[token, slot] = False
    return kept, sent


@pytest.mark.parametrize("favourite", [None, 3], ids=["even", "hot"])
@pytest.mark.parametrize("exchange", ["gather", "all_to_all", "ragged"])
@pytest.mark.parametrize("bounded, factor", [(True, 0.0), (False, 0.5)])
def test_nothing_is_dropped_without_a_bound(exchange, bounded, factor, favourite):
    ids, weights = routing_of(1, favourite)
    x = jax.random.normal(jax.random.key(0), (DEVICES * TOKENS, D))
    (_, (update, dropped)), found = compiled(exchange, factor, bounded)(x, weights, ids)
    np.testing.assert_allclose(update, by_hand(x, ids, weights, True), rtol=1e-5, atol=1e-6)
    assert not dropped.any()
    expected = jax.grad(
        lambda x, w: jnp.sum(jnp.sin(by_hand(x, ids, w, ids < EXPERTS))), argnums=(0, 1)
    )(x, weights)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("exchange", ["all_to_all", "ragged"])
@pytest.mark.parametrize("factor", [0.5, 1.0])
def test_pairs_beyond_the_bound_are_dropped_and_counted(exchange, factor):
    ids, weights = routing_of(2, favourite=3)
    kept, sent = kept_of(exchange, ids, weights, factor)
    used = ids < EXPERTS
    assert (used & ~sent).any(), "some must not be sent"
    assert sent.any(axis=1).sum() > (~sent & used).any(axis=1).sum() > 0
    x = jax.random.normal(jax.random.key(0), (DEVICES * TOKENS, D))

    def loss(x, weights):
        left = jnp.sum(jnp.where(sent, weights, 0), axis=1, keepdims=True)
        whole = jnp.sum(jnp.where(used, weights, 0), axis=1, keepdims=True)
        shared_out = weights * whole / jnp.where(left > 0, left, 1)
        update = by_hand(x, ids, shared_out, kept)
        return jnp.sum(jnp.sin(update)), update

    (_, (update, dropped)), found = compiled(exchange, factor, True)(x, weights, ids)
    (_, wanted), expected = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(x, weights)
    np.testing.assert_allclose(update, wanted, rtol=1e-5, atol=1e-6)
    assert dropped.sum() == (used & ~kept).sum()
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_gather_keeps_the_rows_of_its_first_experts():
    ids, weights = routing_of(2, favourite=2)
    limit = int(np.ceil(0.7 * TOKENS * SLOTS))
    kept = ids < EXPERTS
    for device in range(DEVICES):
        pairs = [(e, i) for i, e in enumerate(ids.reshape(-1)) if e // HERE == device]
        kept.reshape(-1)[[i for _, i in sorted(pairs)[limit:]]] = False
    x = jax.random.normal(jax.random.key(0), (DEVICES * TOKENS, D))
    (_, (update, dropped)), _ = compiled("gather", 0.7, True)(x, weights, ids)
    np.testing.assert_allclose(update, by_hand(x, ids, weights, kept), rtol=1e-5, atol=1e-6)
    assert dropped.sum() == ((ids < EXPERTS) & ~kept).sum() > 0
