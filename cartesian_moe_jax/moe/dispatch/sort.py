"""Sort rows by expert on one device, and undo it: both directions, and both gradients, gather.

Slot s of token t is pair t * k + s. ``order`` lists the pairs by expert; ``position`` is its
inverse, the row that holds each pair. Autodiff would turn a gather into a scatter-add; since
``order`` is a permutation, the gradient of each gather is the other gather.

With holes, some rows hold no pair (their order is the number of pairs) and some pairs have no row
(their position is the number of rows). What a pair without a row would read is zero; a row without
a pair holds any token, for whom it reaches leaves it out.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from cartesian_moe_jax.moe.routing import Routing


class SortPlan(NamedTuple):
    """Where each pair went, and the weight it comes back with."""

    order: Int[Array, "rows"]
    position: Int[Array, "tokens slots"]
    weights: Float[Array, "tokens slots"]


class Sorted(NamedTuple):
    """Pairs by expert (or by device); those of unused slots come last."""

    order: Int[Array, "pairs"]
    position: Int[Array, "tokens slots"]
    sizes: Int[Array, "groups"]
    """Pairs of each."""


def sort_by_expert(
    expert_ids: Int[Array, "tokens slots"],
    num_experts: int,
    priority: Float[Array, "tokens slots"] | None = None,
) -> Sorted:
    """Sort the pairs by expert: in a group the highest priority first, or as they come."""
    flat = expert_ids.reshape(-1).astype(jnp.int32)
    pairs = jnp.arange(flat.size, dtype=jnp.int32)
    if priority is None and (num_experts + 1) * flat.size <= 2**32:
        sorted_ids, order = _sort_as_numbers(flat, pairs)
    else:
        keys = (flat,) if priority is None else (flat, -priority.reshape(-1))
        sorted_ids, *_, order = jax.lax.sort((*keys, pairs), num_keys=len(keys), is_stable=True)
    position = jnp.zeros_like(pairs).at[order].set(pairs, unique_indices=True)
    bounds = jnp.searchsorted(sorted_ids, jnp.arange(num_experts + 1, dtype=jnp.int32))
    sizes = jnp.diff(bounds).astype(jnp.int32)
    return Sorted(order, position.reshape(expert_ids.shape), sizes)


def _sort_as_numbers(
    ids: Int[Array, "pairs"], pairs: Int[Array, "pairs"]
) -> tuple[Int[Array, "pairs"], Int[Array, "pairs"]]:
    """Sort id and pair as one number, which takes XLA:CPU a quarter of the time of two."""
    each = jnp.uint32(pairs.size)
    together = jnp.sort(ids.astype(jnp.uint32) * each + pairs.astype(jnp.uint32))
    return (together // each).astype(jnp.int32), (together % each).astype(jnp.int32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def gather_rows(
    x: Float[Array, "tokens d_model"],
    order: Int[Array, "rows"],
    position: Int[Array, "tokens slots"],
    holes: bool = False,
) -> Float[Array, "rows d_model"]:
    """Return row r = x[token of pair order[r]]."""
    return _take_any(x, order // position.shape[1], holes)


def _gather_rows_forward(x, order, position, holes):
    return gather_rows(x, order, position, holes), position


def _gather_rows_backward(holes, position, d_rows):
    slots = range(position.shape[1])
    parts = [take(d_rows, position[:, s], holes).astype(jnp.float32) for s in slots]
    return sum(parts).astype(d_rows.dtype), None, None


gather_rows.defvjp(_gather_rows_forward, _gather_rows_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def weighted_sum(
    rows: Float[Array, "rows d_model"],
    weights: Float[Array, "tokens slots"],
    order: Int[Array, "rows"],
    position: Int[Array, "tokens slots"],
    holes: bool = False,
) -> Float[Array, "tokens d_model"]:
    """Return token t = sum over slots s of weights[t, s] * rows[position[t, s]], in float32."""
    slots = [
        weights[:, s, None].astype(jnp.float32)
        * take(rows, position[:, s], holes).astype(jnp.float32)
        for s in range(position.shape[1])
    ]
    return sum(slots).astype(rows.dtype)


def _weighted_sum_forward(rows, weights, order, position, holes):
    return weighted_sum(rows, weights, order, position, holes), (rows, weights, order, position)


def _weighted_sum_backward(holes, residuals, d_out):
    rows, weights, order, position = residuals
    d_rows_out = take(d_out, order // position.shape[1], holes).astype(jnp.float32)
    row_weights = take(weights.reshape(-1), order, holes).astype(jnp.float32)
    d_rows = (row_weights[:, None] * d_rows_out).astype(rows.dtype)
    d_row_weights = jnp.sum(rows.astype(jnp.float32) * d_rows_out, axis=-1)
    return d_rows, take(d_row_weights, position, holes).astype(weights.dtype), None, None


weighted_sum.defvjp(_weighted_sum_forward, _weighted_sum_backward)


def take(
    array: Shaped[Array, "n *rest"], index: Int[Array, "*picked"], holes: bool, hole: int = 0
) -> Shaped[Array, "..."]:
    """Return array[index]; with ``holes``, an index of n reads ``hole``."""
    if not holes:
        return array[index]
    return array.at[index].get(mode="fill", fill_value=hole)


def _take_any(
    array: Shaped[Array, "n *rest"], index: Int[Array, "rows"], holes: bool
) -> Shaped[Array, "rows *rest"]:
    """Return array[index]; with ``holes``, an index of n reads anything.

    To write zeros there takes XLA for TPU another pass over all rows.
    """
    return array.at[index].get(mode="clip") if holes else array[index]


def rows_by_expert(
    x: Float[Array, "tokens d_model"], routing: Routing, num_experts: int, limit: int
) -> tuple[Float[Array, "rows d_model"], Int[Array, "experts"], SortPlan]:
    """Sort one copy of x per slot by expert; rows of unused slots come last.

    There are ``limit`` rows at most, and no more slots may be used: see ``fitting``.
    """
    order, position, sizes = sort_by_expert(routing.expert_ids, num_experts)
    holes = limit < order.size
    if holes:
        order, position = order[:limit], jnp.minimum(position, limit)
    rows = gather_rows(x, order, position, holes)
    return rows, sizes, SortPlan(order, position, routing.weights)


def back_to_tokens(
    rows: Float[Array, "rows d_model"], plan: SortPlan
) -> Float[Array, "tokens d_model"]:
    """Return each token's weighted sum over its slots."""
    order, position, weights = plan
    return weighted_sum(rows, weights, order, position, order.size < position.size)
