"""Copies of tokens for other devices: one for each device that holds an expert of the token.

A copy travels with the token's expert ids and weights, so that the device it comes to can run all
of its experts on it and send back one sum.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cartesian_moe_jax.moe.dispatch.sort import gather_rows, sort_by_expert, take, weighted_sum
from cartesian_moe_jax.moe.routing import Routing


class Copies(NamedTuple):
    """Which copy lies in which row to be sent, by device. Order and position may have holes."""

    order: Int[Array, "rows"]
    position: Int[Array, "tokens slots"]
    """Row of the copy that a slot is the first to ask for; none for the slots behind it."""


def copies_by_device(
    routing: Routing, devices: int, experts_each: int
) -> tuple[Copies, Int[Array, "devices"]]:
    """List the copies of this device's tokens, and how many go to each device.

    To one device, those of highest priority come first: that of the best pair that a copy is for.
    """
    device = routing.expert_ids // experts_each  # an unused slot has id devices * experts_each
    same = device[:, :, None] == device[:, None, :]
    is_first = jnp.argmax(same, axis=-1) == jnp.arange(device.shape[1])
    priority = jax.lax.stop_gradient(routing.priority)[:, None, :]
    best = jnp.max(jnp.where(same, priority, -jnp.inf), axis=-1)
    order, position, sizes = sort_by_expert(jnp.where(is_first, device, devices), devices, best)
    return Copies(order, position), sizes


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
    x: Float[Array, "tokens d_model"],
    routing: Routing,
    copies: Copies,
    num_experts: int,
    with_priority: bool,
) -> tuple[Float[Array, "rows d_model"], Float[Array, "rows labels"]]:
    """Return the rows to be sent, and the labels that travel with them: see ``read_labels``.

    ``with_priority``: the receiver may have to choose among the pairs.
    """
    order, position = copies
    # Small whole numbers, as floats; that of an unused slot is 0, as where no copy lies.
    experts = jax.lax.stop_gradient((num_experts - routing.expert_ids).astype(jnp.float32))
    priority = [jax.lax.stop_gradient(routing.priority)] * with_priority
    labels = jnp.concatenate([routing.weights, experts, *priority], axis=1, dtype=jnp.float32)
    rows, labels = (gather_rows(each, order, position, True) for each in (x, labels))
    return rows, jnp.where((order < position.size)[:, None], labels, 0)


def read_labels(labels: Float[Array, "rows labels"], num_experts: int, slots: int) -> Routing:
    """Return the routing of rows that came from ``send``."""
    weights, experts, *priority = jnp.split(labels, labels.shape[1] // slots, axis=1)
    ids = num_experts - jax.lax.stop_gradient(experts).astype(jnp.int32)
    return Routing(ids, weights, *priority or [weights])


def sum_of_copies(rows: Float[Array, "rows any"], copies: Copies) -> Float[Array, "tokens any"]:
    """Return the sum of what a token's copies came back with; zero for those not sent."""
    ones = (copies.position >= 0).astype(jnp.float32)  # varies over devices as position does
    return weighted_sum(rows, ones, copies.order, copies.position, True)


def only_here(routing: Routing, axis: str, here: int) -> Routing:
    """Turn expert ids into those of this device's ``here`` experts; other slots go unused."""
    ids = routing.expert_ids - jax.lax.axis_index(axis) * here
    is_here = (ids >= 0) & (ids < here)
    ids, weights = jnp.where(is_here, ids, here), jnp.where(is_here, routing.weights, 0)
    return Routing(ids, weights, routing.priority)
