"""Grouped feed-forward by XLA's own ragged matmul.

On TPU it becomes a kernel, but for the weight gradients, and at small shapes a masked convolution
of `experts` times the operations; on CPU and GPU it is always expanded so.
"""

import functools

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from cartesian_moe_jax.kernels.composed import (
    GroupedMatmul,
    composed_feed_forward,
    forward_by,
    is_live,
    to_rows_by,
)

_OVER_ROWS = jax.lax.RaggedDotDimensionNumbers(
    dot_dimension_numbers=(((0,), (0,)), ((), ())),
    lhs_ragged_dimensions=[0],
    rhs_group_dimensions=[],
)


def _multiply(
    rows: Float[Array, "rows inputs"],
    weights: Float[Array, "experts ..."],
    group_sizes: Int[Array, "experts"],
    transposed: bool,
) -> Float[Array, "rows outputs"]:
    weights = weights.swapaxes(1, 2) if transposed else weights
    product = jax.lax.ragged_dot(rows, weights, group_sizes, preferred_element_type=jnp.float32)
    return product.astype(rows.dtype)


def _to_weights(
    rows: Float[Array, "rows inputs"],
    d_outputs: Float[Array, "rows outputs"],
    group_sizes: Int[Array, "experts"],
    dtype: DTypeLike,
) -> Float[Array, "experts inputs outputs"]:
    # Rows behind the live ones are in no group, but a dense expansion multiplies them by zero,
    # which NaN survives.
    live = is_live(rows.shape[0], group_sizes)
    rows, d_outputs = jnp.where(live, rows, 0), jnp.where(live, d_outputs, 0)
    sums = jax.lax.ragged_dot_general(
        rows, d_outputs, group_sizes, _OVER_ROWS, preferred_element_type=jnp.float32
    )
    return sums.astype(dtype)


RAGGED = GroupedMatmul(forward_by(_multiply), to_rows_by(_multiply), _to_weights)
ragged_feed_forward = functools.partial(composed_feed_forward, RAGGED)
