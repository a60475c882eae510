"""Grouped matmuls of tokamax (openxla/tokamax), where it is installed: kernels for NVIDIA GPUs."""

import functools
import importlib.util

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from cartesian_moe_jax.kernels.composed import GroupedMatmul, forward_by, is_live, to_rows_by
from cartesian_moe_jax.kernels.opaque_call import opaque_call

IMPLEMENTATIONS = ("mosaic_gpu", "triton")
"""As tokamax calls them. It has others, which expand or are for other chips."""


def is_installed() -> bool:
    """Whether tokamax can be imported; it takes seconds, so this does not do it."""
    return importlib.util.find_spec("tokamax") is not None


def tokamax_matmul(implementation: str) -> GroupedMatmul:
    """The grouped matmul by one of IMPLEMENTATIONS; its legs raise NotImplementedError at times."""
    multiply = functools.partial(_multiply, implementation)
    to_weights = functools.partial(_to_weights, implementation)
    return GroupedMatmul(forward_by(multiply), to_rows_by(multiply), to_weights)


def _multiply(
    implementation: str,
    rows: Float[Array, "rows inputs"],
    weights: Float[Array, "experts ..."],
    group_sizes: Int[Array, "experts"],
    transposed: bool,
) -> Float[Array, "rows outputs"]:
    contracted = 2 if transposed else 1
    numbers = jax.lax.RaggedDotDimensionNumbers((((1,), (contracted,)), ((), ())), (0,), (0,))
    result = jax.ShapeDtypeStruct((rows.shape[0], weights.shape[3 - contracted]), rows.dtype)
    (product,) = opaque_call(
        _call,
        (result,),
        rows,
        weights,
        group_sizes,
        numbers=numbers,
        dtype=rows.dtype,
        implementation=implementation,
    )
    return product


def _to_weights(
    implementation: str,
    rows: Float[Array, "rows inputs"],
    d_outputs: Float[Array, "rows outputs"],
    group_sizes: Int[Array, "experts"],
    dtype: DTypeLike,
) -> Float[Array, "experts inputs outputs"]:
    # Rows behind the live ones are in no group; that its kernels skip them is not documented.
    live = is_live(rows.shape[0], group_sizes)
    rows, d_outputs = jnp.where(live, rows, 0), jnp.where(live, d_outputs, 0)
    numbers = jax.lax.RaggedDotDimensionNumbers((((0,), (0,)), ((), ())), (0,), ())
    shape = (group_sizes.shape[0], rows.shape[1], d_outputs.shape[1])
    (sums,) = opaque_call(
        _call,
        (jax.ShapeDtypeStruct(shape, dtype),),
        rows,
        d_outputs,
        group_sizes,
        numbers=numbers,
        dtype=jnp.dtype(dtype),
        implementation=implementation,
    )
    return sums


def _call(
    rows: Float[Array, "rows inputs"],
    other: Float[Array, "..."],
    group_sizes: Int[Array, "experts"],
    numbers: jax.lax.RaggedDotDimensionNumbers,
    dtype: jnp.dtype,
    implementation: str,
) -> tuple[Float[Array, "..."]]:
    import tokamax

    product = tokamax.ragged_dot_general(
        rows,
        other,
        group_sizes=group_sizes.astype(jnp.int32),
        ragged_dot_dimension_numbers=numbers,
        preferred_element_type=dtype,
        implementation=implementation,
    )
    return (product,)
