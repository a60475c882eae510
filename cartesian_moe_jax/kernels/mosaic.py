"""Grouped matmuls for TPUs: two Pallas kernels, compiled by Mosaic.

Activations and their gradients are computed where the products are, and are no passes of their
own. Rows of no expert are neither read nor multiplied. All accumulates in float32, and each result
is written once. Tiles are the largest that the chip's memory holds (tpu_tiles.py).

Where programs are not compiled for TPU, the kernels are interpreted: slowly, for tests.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from cartesian_moe_jax.kernels.composed import Finish, GroupedMatmul, composed_feed_forward
from cartesian_moe_jax.kernels.mosaic_products import call_products
from cartesian_moe_jax.kernels.mosaic_weights import call_to_weights
from cartesian_moe_jax.kernels.opaque_call import opaque_call
from cartesian_moe_jax.kernels.product_call import Like, call_finished
from cartesian_moe_jax.kernels.tpu_tiles import filled


def _forward(
    rows: Float[Array, "rows inputs"],
    weights: tuple[Float[Array, "experts inputs outputs"], ...],
    group_sizes: Int[Array, "experts"],
    finish: Finish,
) -> tuple[Float[Array, "rows outputs"], ...]:
    return call_finished(_products, (rows,), weights, group_sizes, finish, (), transposed=False)


def _to_rows(
    d_outputs: tuple[Float[Array, "rows outputs"], ...],
    weights: tuple[Float[Array, "experts inputs outputs"], ...],
    group_sizes: Int[Array, "experts"],
    finish: Finish,
    *beside: Float[Array, "rows inputs"],
) -> tuple[Float[Array, "rows inputs"], ...]:
    return call_finished(
        _products, d_outputs, weights, group_sizes, finish, beside, transposed=True
    )


def _products(
    operands: Sequence[Float[Array, "rows summed"]],
    weights: Sequence[Float[Array, "experts ..."]],
    group_sizes: Int[Array, "experts"],
    beside: Sequence[Float[Array, "rows outputs"]],
    like: Like,
    finish: Finish,
    transposed: bool,
) -> tuple[Float[Array, "rows outputs"], ...]:
    """A ProductKernel."""
    filled = [_fill(arrays) for arrays in (operands, weights, beside)]
    results = call_products(*filled[:2], group_sizes, filled[2], len(like), finish, transposed)
    return tuple(result[:, : one.shape[1]] for result, one in zip(results, like, strict=True))


def _to_weights(
    rows: Float[Array, "rows inputs"],
    d_outputs: Float[Array, "rows outputs"],
    group_sizes: Int[Array, "experts"],
    dtype: DTypeLike,
) -> Float[Array, "experts inputs outputs"]:
    shape = (group_sizes.shape[0], rows.shape[1], d_outputs.shape[1])
    results = (jax.ShapeDtypeStruct(shape, dtype),)
    operands = rows, d_outputs, group_sizes
    (total,) = opaque_call(_run_to_weights, results, *operands, dtype=jnp.dtype(dtype))
    return total


def _run_to_weights(
    rows: Float[Array, "rows inputs"],
    d_outputs: Float[Array, "rows outputs"],
    group_sizes: Int[Array, "experts"],
    dtype: jnp.dtype,
) -> tuple[Float[Array, "experts inputs outputs"]]:
    total = call_to_weights(*_fill((rows, d_outputs)), group_sizes, dtype)
    return (total[:, : rows.shape[1], : d_outputs.shape[1]],)


def _fill(arrays: Sequence[Float[Array, "..."]]) -> list[Float[Array, "..."]]:
    """Adds zeros until the widths, all but the first axis, can be cut."""
    return [
        jnp.pad(array, ((0, 0), *((0, filled(width) - width) for width in array.shape[1:])))
        for array in arrays
    ]


MOSAIC = GroupedMatmul(_forward, _to_rows, _to_weights, clears=True)
mosaic_feed_forward = functools.partial(composed_feed_forward, MOSAIC)
