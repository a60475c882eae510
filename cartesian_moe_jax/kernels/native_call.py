"""Calls of the compiled kernels for CPU."""

from collections.abc import Hashable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from cartesian_moe_jax.kernels.native_library import NativeLibraryError, native_library_problem
from cartesian_moe_jax.kernels.opaque_call import opaque_call

Shapes = tuple[tuple[int, ...], ...]
Pairs = tuple[tuple[int, int], ...]


def native_call(
    target: str,
    shapes: Shapes,
    *arrays: Num[Array, "..."],
    in_place: Pairs = (),
    **attributes: Hashable,
) -> tuple[Float[Array, "..."], ...]:
    """Call a function of the native library; its results are float32 arrays of `shapes`.

    `in_place` pairs numbers of arguments with those of the results that take their memory. All
    results vary over the mesh axes of the first array. There is no gradient.

    Raises NativeLibraryError where there is no library.
    """
    if problem := native_library_problem():
        raise NativeLibraryError(problem)
    settings = {"target": target, "shapes": shapes, "in_place": in_place, **attributes}
    return opaque_call(_foreign, _results(shapes), *arrays, **settings)


def _foreign(
    *arrays: Num[Array, "..."],
    target: str,
    shapes: Shapes,
    in_place: Pairs,
    **attributes: Hashable,
) -> tuple[Float[Array, "..."], ...]:
    call = jax.ffi.ffi_call(target, _results(shapes), input_output_aliases=dict(in_place))
    return tuple(call(*arrays, **attributes))


def _results(shapes: Shapes) -> tuple[jax.ShapeDtypeStruct, ...]:
    return tuple(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
