"""Sort rows by expert on one device, and undo it: both directions, and both gradients, gather.

Slot s of token t is pair t * k + s. ``order`` lists the pairs by expert; ``position`` is its
inverse, the row that holds each pair. Autodiff would turn a gather into a scatter-add; since
``order`` is a permutation, the gradient of each gather is the other gather.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class SortPlan(NamedTuple):
    """Where each pair went, and the weight it comes back with."""

    order: Int[Array, "rows"]
    position: Int[Array, "tokens slots"]
    weights: Float[Array, "tokens slots"]


def sort_by_expert(
    expert_ids: Int[Array, "tokens slots"], num_experts: int
) -> tuple[Int[Array, "rows"], Int[Array, "tokens slots"], Int[Array, "experts"]]:
    """Return order, position and the number of rows of each expert. Stable; unused slots last."""
    flat = expert_ids.reshape(-1)
    pairs = jnp.arange(flat.size, dtype=jnp.int32)
    sorted_ids, order = jax.lax.sort((flat.astype(jnp.int32), pairs), num_keys=1, is_stable=True)
    position = jnp.zeros_like(pairs).at[order].set(pairs, unique_indices=True)
    bounds = jnp.searchsorted(sorted_ids, jnp.arange(num_experts + 1, dtype=jnp.int32))
    return order, position.reshape(expert_ids.shape), jnp.diff(bounds).astype(jnp.int32)


@jax.custom_vjp
def gather_rows(
    x: Float[Array, "tokens d_model"],
    order: Int[Array, "rows"],
    position: Int[Array, "tokens slots"],
) -> Float[Array, "rows d_model"]:
    """Return row r = x[token of pair order[r]]."""
    return x[order // position.shape[1]]


def _gather_rows_forward(x, order, position):
    return gather_rows(x, order, position), position


def _gather_rows_backward(position, d_rows):
    slots = [d_rows[position[:, s]].astype(jnp.float32) for s in range(position.shape[1])]
    return sum(slots).astype(d_rows.dtype), None, None


gather_rows.defvjp(_gather_rows_forward, _gather_rows_backward)


@jax.custom_vjp
def weighted_sum(
    rows: Float[Array, "rows d_model"],
    weights: Float[Array, "tokens slots"],
    order: Int[Array, "rows"],
    position: Int[Array, "tokens slots"],
) -> Float[Array, "tokens d_model"]:
    """Return token t = sum over slots s of weights[t, s] * rows[position[t, s]], in float32."""
    slots = [
        weights[:, s, None].astype(jnp.float32) * rows[position[:, s]].astype(jnp.float32)
        for s in range(position.shape[1])
    ]
    return sum(slots).astype(rows.dtype)


def _weighted_sum_forward(rows, weights, order, position):
    return weighted_sum(rows, weights, order, position), (rows, weights, order, position)


def _weighted_sum_backward(residuals, d_out):
    rows, weights, order, position = residuals
    token = order // position.shape[1]
    row_weights = weights.reshape(-1)[order].astype(jnp.float32)
    d_rows = (row_weights[:, None] * d_out[token].astype(jnp.float32)).astype(rows.dtype)
    d_row_weights = jnp.sum(rows.astype(jnp.float32) * d_out[token].astype(jnp.float32), axis=-1)
    return d_rows, d_row_weights[position].astype(weights.dtype), None, None


weighted_sum.defvjp(_weighted_sum_forward, _weighted_sum_backward)
