"""Grouped matmuls as a loop over the experts: slow, in little memory, and obviously right."""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from cartesian_moe_jax.kernels.composed import GroupedMatmul, forward_by, to_rows_by


def _multiply(
    rows: Float[Array, "rows ..."],
    weights: Float[Array, "experts ..."],
    group_sizes: Int[Array, "experts"],
    transposed: bool,
) -> Float[Array, "rows ..."]:
    def add(total: Float[Array, "rows ..."], expert: Int[Array, ""]) -> tuple[Array, None]:
        weight = weights[expert].T if transposed else weights[expert]
        product = _dot(rows, weight).astype(rows.dtype)
        return jnp.where(_own(rows.shape[0], group_sizes, expert), product, total), None

    zeros = jnp.zeros((rows.shape[0], weights.shape[1 if transposed else 2]), rows.dtype)
    return jax.lax.scan(add, zeros, jnp.arange(group_sizes.shape[0]))[0]


def _to_weights(
    rows: Float[Array, "rows inputs"],
    d_outputs: Float[Array, "rows outputs"],
    group_sizes: Int[Array, "experts"],
    dtype: DTypeLike,
) -> Float[Array, "experts inputs outputs"]:
    def sum_of(expert: Int[Array, ""]) -> Float[Array, "inputs outputs"]:
        own = _own(rows.shape[0], group_sizes, expert)
        return _dot(jnp.where(own, rows, 0).T, jnp.where(own, d_outputs, 0)).astype(dtype)

    return jax.lax.map(sum_of, jnp.arange(group_sizes.shape[0]))


def _own(
    rows: int, group_sizes: Int[Array, "experts"], expert: Int[Array, ""]
) -> Bool[Array, "rows 1"]:
    end = jnp.cumsum(group_sizes)[expert]
    index = jnp.arange(rows)
    return ((index >= end - group_sizes[expert]) & (index < end))[:, None]


def _dot(a: Float[Array, "m k"], b: Float[Array, "k n"]) -> Float[Array, "m n"]:
    wide = jnp.promote_types(a.dtype, jnp.float32)
    exact = jax.lax.Precision.HIGHEST
    return jnp.dot(a, b, precision=exact, preferred_element_type=wide)


PLAIN = GroupedMatmul(forward_by(_multiply), to_rows_by(_multiply), _to_weights)
"""In float64 throughout if the operands are; rows to which no expert belongs come out as zeros."""
