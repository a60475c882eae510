"""Copies of tokens for other devices: one for each device that holds an expert of the token.

A copy travels with the token's expert ids and weights, so that the device it comes to can run all
of its experts on it and send back one sum.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cartesian_moe_jax.moe.dispatch.sort import gather_rows, sort_by_expert, take, weighted_sum
from cartesian_moe_jax.moe.routing import Routing


class Copies(NamedTuple):
    """Which copy lies in which row to be sent, by device. Order and position may have holes."""

    order: Int[Array, "rows"]
    position: Int[Array, "tokens slots"]
    """Row of the copy that a slot is the first to ask for; none for the slots behind it."""
    first: Int[Array, "tokens slots"]
    """The slot that asked first for a copy to this slot's device."""


def copies_by_device(
    routing: Routing, devices: int, experts_each: int
) -> tuple[Copies, Int[Array, "devices"]]:
    """List the copies of this device's tokens, and how many go to each device.

    To one device, those of highest priority come first.
    """
    device = routing.expert_ids // experts_each  # an unused slot has id devices * experts_each
    same = device[:, :, None] == device[:, None, :]
    first = jnp.argmax(same, axis=-1).astype(jnp.int32)
    is_first = first == jnp.arange(device.shape[1])
    order, position, sizes = sort_by_expert(
        jnp.where(is_first, device, devices), devices, routing.priority
    )
    return Copies(order, position, first), sizes


def cut_into_buckets(copies: Copies, sizes: Int[Array, "devices"], bucket: int) -> Copies:
    """Lay the copies out as one bucket of equal size per device; copies beyond it have no row."""
    devices, pairs = sizes.shape[0], copies.order.shape[0]
    starts = jnp.cumsum(sizes) - sizes
    index = starts[:, None] + jnp.arange(bucket)
    is_filled = jnp.arange(bucket) < sizes[:, None]
    order = jnp.where(is_filled, copies.order[jnp.minimum(index, pairs - 1)], pairs).reshape(-1)
    to = jnp.searchsorted(starts + sizes, copies.position, side="right").astype(jnp.int32)
    within = copies.position - take(starts, to, holes=True)
    has_row = (to < devices) & (within < bucket)
    return copies._replace(
        order=order, position=jnp.where(has_row, to * bucket + within, devices * bucket)
    )


def send(
    x: Float[Array, "tokens d_model"], routing: Routing, copies: Copies, num_experts: int
) -> tuple[Float[Array, "rows d_model"], Float[Array, "rows labels"]]:
    """Return the rows to be sent, and the labels that travel with them: see ``read_labels``."""
    order, position, _ = copies
    # Small whole numbers, as floats; that of an unused slot is 0, as where no copy lies.
    experts = jax.lax.stop_gradient((num_experts - routing.expert_ids).astype(jnp.float32))
    labels = jnp.concatenate([routing.weights.astype(jnp.float32), experts], axis=1)
    rows, labels = (gather_rows(each, order, position, True) for each in (x, labels))
    return rows, jnp.where((order < position.size)[:, None], labels, 0)


def read_labels(labels: Float[Array, "rows labels"], num_experts: int) -> Routing:
    """Return the routing of rows that came from ``send``."""
    weights, experts = jnp.split(labels, 2, axis=1)
    ids = num_experts - jax.lax.stop_gradient(experts).astype(jnp.int32)
    return Routing(ids, weights, weights)


def sum_of_copies(
    rows: Float[Array, "rows d_model"], copies: Copies
) -> Float[Array, "tokens d_model"]:
    """Return the sum of what a token's copies came back with."""
    ones = (copies.position >= 0).astype(jnp.float32)  # varies over devices as position does
    return weighted_sum(rows, ones, copies.order, copies.position, True)


def kept_pairs(
    routing: Routing, copies: Copies, has_row: Bool[Array, "tokens slots"], num_experts: int
) -> tuple[Routing, Int[Array, ""]]:
    """Take out the pairs whose copy is not sent; the others' weights add up to as much as before.

    ``has_row`` says of each slot that asked for a copy whether it is sent. Returns the number of
    pairs taken out too.
    """
    is_used = routing.expert_ids < num_experts
    is_kept = is_used & jnp.take_along_axis(has_row, copies.first, axis=1)
    weights = jnp.where(is_kept, routing.weights, 0)
    whole = jnp.sum(jnp.where(is_used, routing.weights, 0), axis=1, keepdims=True)
    left = jnp.sum(weights, axis=1, keepdims=True)
    # Exactly 1 where nothing was taken out.
    lost = jnp.any(is_used & ~is_kept, axis=1, keepdims=True)
    scale = jnp.where(lost, whole / jnp.maximum(left, 1e-9), 1)
    ids = jnp.where(is_kept, routing.expert_ids, num_experts)
    dropped = jnp.sum(is_used & ~is_kept, dtype=jnp.int32)
    return Routing(ids, weights * scale, routing.priority), dropped


def only_here(routing: Routing, axis: str, here: int) -> Routing:
    """Turn expert ids into those of this device's ``here`` experts; other slots go unused."""
    ids = routing.expert_ids - jax.lax.axis_index(axis) * here
    is_here = (ids >= 0) & (ids < here)
    ids, weights = jnp.where(is_here, ids, here), jnp.where(is_here, routing.weights, 0)
    return Routing(ids, weights, routing.priority)
