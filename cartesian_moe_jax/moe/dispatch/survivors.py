"""What is left where buffers overflow: the pairs of highest priority, with the others' weights."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from cartesian_moe_jax.moe.routing import Routing
from cartesian_moe_jax.varying import vary_alike

SIGN = np.uint32(1 << 31)
"""The first bit of 32."""


class Survivors(NamedTuple):
    """What buffers left of the pairs of a device's tokens."""

    scale: Float[Array, "tokens"] | None
    """What each token's sum is multiplied by, so that its weights add up to as much as before."""
    dropped: Int[Array, ""]
    """Pairs that no expert computes."""

    def rescaled(self, update: Float[Array, "tokens d_model"]) -> Float[Array, "tokens d_model"]:
        """Give each token's lost weight to the experts that it still has."""
        if self.scale is None:
            return update
        return (update.astype(jnp.float32) * self.scale[:, None]).astype(update.dtype)


def all_survive() -> Survivors:
    """Return that nothing is lost, where nothing can overflow."""
    return Survivors(None, jnp.zeros((), jnp.int32))


def survivors_of(
    routing: Routing, is_computed: Bool[Array, "tokens slots"], num_experts: int
) -> Survivors:
    """Return what is left of a routing if these of its pairs are computed."""
    is_used = routing.expert_ids < num_experts
    is_lost = is_used & ~is_computed
    whole = jnp.sum(jnp.where(is_used, routing.weights, 0), axis=1, dtype=jnp.float32)
    left = jnp.sum(jnp.where(is_computed, routing.weights, 0), axis=1, dtype=jnp.float32)
    # Exactly 1 where nothing was lost; what has nothing left has an update of zero.
    scale = jnp.where(jnp.any(is_lost, axis=1), whole / jnp.maximum(left, 1e-9), 1)
    scale = jnp.where(jnp.any(is_computed, axis=1), scale, 0)
    return Survivors(scale, jnp.sum(is_lost, dtype=jnp.int32))


def fitting(routing: Routing, num_experts: int, limit: int) -> Routing:
    """Keep the pairs of highest priority, whatever their expert, if more than ``limit`` are used.

    The slots of the others go unused. Of pairs alike the first stay.
    """
    if limit >= routing.expert_ids.size:
        return routing
    is_used = routing.expert_ids < num_experts
    priority = jax.lax.stop_gradient(routing.priority)
    is_kept = jax.lax.cond(
        _count(is_used) > limit,
        lambda is_used: _highest(priority, is_used, limit),
        lambda is_used: is_used,
        is_used,
    )
    ids = jnp.where(is_kept, routing.expert_ids, num_experts)
    return Routing(ids, jnp.where(is_kept, routing.weights, 0), routing.priority)


def _highest(
    priority: Float[Array, "tokens slots"], is_used: Bool[Array, "tokens slots"], count: int
) -> Bool[Array, "tokens slots"]:
    """Say which pairs are the ``count`` used ones of highest priority; more than so many are used.

    XLA for TPU takes many seconds to compile a sort, or a running sum. So the lowest priority that
    is kept is searched bit by bit, and then the last of the pairs that have it.
    """
    bits = jax.lax.bitcast_convert_type(priority.astype(jnp.float32), jnp.uint32)
    rising = jnp.where(bits < SIGN, bits | SIGN, ~bits)  # whole numbers in the order of priorities
    keys = jnp.where(is_used, rising, 0)
    lowest = _largest(lambda key: _count(keys >= key) >= count, keys)
    room = count - _count(keys > lowest)
    pair = jnp.arange(keys.size, dtype=jnp.uint32).reshape(keys.shape)
    end = _largest(lambda end: _count((keys == lowest) & (pair < end)) <= room, keys)
    return (keys > lowest) | ((keys == lowest) & (pair < end))


def _largest(
    holds: Callable[[UInt32[Array, ""]], Bool[Array, ""]], like: UInt32[Array, "..."]
) -> UInt32[Array, ""]:
    """Return the largest number that ``holds``, as all below it do, varying as ``like`` does."""

    def with_bit(i: Int[Array, ""], found: UInt32[Array, ""]) -> UInt32[Array, ""]:
        larger = found | (SIGN >> i.astype(jnp.uint32))
        return jnp.where(holds(larger), larger, found)

    zero, _ = vary_alike((jnp.uint32(0), like))
    return jax.lax.fori_loop(0, 32, with_bit, zero)


def _count(which: Bool[Array, "tokens slots"]) -> Int[Array, ""]:
    return jnp.sum(which, dtype=jnp.int32)
