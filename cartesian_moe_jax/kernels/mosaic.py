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
from jaxtyping import Array, Float, Int, Num

from cartesian_moe_jax.kernels.composed import (
    Finish,
    GroupedMatmul,
    as_they_are,
    composed_feed_forward,
    finished,
)
from cartesian_moe_jax.kernels.in_kernels import in_kernels
from cartesian_moe_jax.kernels.mosaic_products import call_products, number_of_sums
from cartesian_moe_jax.kernels.mosaic_weights import call_to_weights
from cartesian_moe_jax.kernels.opaque_call import opaque_call
from cartesian_moe_jax.kernels.tpu_tiles import filled


def _forward(
    rows: Float[Array, "rows inputs"],
    weights: tuple[Float[Array, "experts inputs outputs"], ...],
    group_sizes: Int[Array, "experts"],
    finish: Finish,
) -> tuple[Float[Array, "rows outputs"], ...]:
    return _products((rows,), weights, group_sizes, finish, (), transposed=False)


def _to_rows(
    d_outputs: tuple[Float[Array, "rows outputs"], ...],
    weights: tuple[Float[Array, "experts inputs outputs"], ...],
    group_sizes: Int[Array, "experts"],
    finish: Finish,
    *beside: Float[Array, "rows inputs"],
) -> tuple[Float[Array, "rows inputs"], ...]:
    return _products(d_outputs, weights, group_sizes, finish, beside, transposed=True)


def _products(
    operands: tuple[Float[Array, "rows summed"], ...],
    weights: tuple[Float[Array, "experts ..."], ...],
    group_sizes: Int[Array, "experts"],
    finish: Finish,
    beside: tuple[Float[Array, "rows outputs"], ...],
    transposed: bool,
) -> tuple[Float[Array, "rows outputs"], ...]:
    rows, dtype = operands[0].shape[0], operands[0].dtype
    sums = number_of_sums(operands, weights)
    if not in_kernels(finish, sums + len(beside)):
        bare = _products(operands, weights, group_sizes, as_they_are, (), transposed)
        return finished(finish, (*bare, *beside), dtype)
    one = jax.ShapeDtypeStruct((rows, weights[0].shape[1 if transposed else 2]), jnp.float32)
    results = jax.eval_shape(finish, *[one] * (sums + len(beside)))
    return opaque_call(
        _run_products,
        tuple(each.update(dtype=dtype) for each in results),
        *operands,
        *beside,
        group_sizes,
        *weights,
        split=(len(operands), len(operands) + len(beside)),
        finish=finish,
        transposed=transposed,
    )


def _run_products(
    *arrays: Num[Array, "..."], split: tuple[int, int], finish: Finish, transposed: bool
) -> tuple[Float[Array, "rows outputs"], ...]:
    operands, beside = arrays[: split[0]], arrays[split[0] : split[1]]
    group_sizes, *weights = arrays[split[1] :]
    outputs = weights[0].shape[1 if transposed else 2]
    results = call_products(
        _fill(operands), _fill(weights), group_sizes, _fill(beside), finish, transposed
    )
    return tuple(result[:, :outputs] for result in results)


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
