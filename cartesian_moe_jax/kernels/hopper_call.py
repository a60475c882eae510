"""What the kernels for Hopper GPUs have in common: how they are called, and how they store."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float, Int

from cartesian_moe_jax.platform import target_device

Ref = Any
"""An array in one of the GPU's memories, as a kernel sees it."""

GROUPS = 2
"""Groups of four warps that multiply; a further one copies."""
GROUP_AXIS, MULTIPROCESSOR_AXIS = "group", "multiprocessor"
FINISHED = 64
"""Columns that are finished at a time: as much as registers can hold beside the sums."""
NEIGHBOURS = 4
"""Blocks of columns that are computed at one time, for rows that are then in the cache."""
COPYING_REGISTERS = 40
"""For a thread that copies; those that multiply share the others."""


def swizzled(width: int, dtype: jnp.dtype) -> tuple[plgpu.TilingTransform, plgpu.SwizzleTransform]:
    """How a block of this width lies in shared memory, for the tensor cores to read."""
    bits = 8 * dtype.itemsize
    swizzle = plgpu.find_swizzle(width * bits)
    return (
        plgpu.TilingTransform((8, 8 * swizzle // bits)),
        plgpu.SwizzleTransform(swizzle),
    )


def turned(block: Ref) -> Ref:
    """A block in shared memory, transposed without being moved."""
    # jax 0.10 has a function for it, 0.11 a method.
    turn = getattr(block, "transpose", None)
    return turn((1, 0)) if turn else plgpu.transpose_ref(block, (1, 0))


def row_blocks(size: tuple[int, int], dtype: jnp.dtype, along: int) -> plgpu.BlockSpec:
    """Blocks of a matrix, one after the other along an axis."""
    return plgpu.BlockSpec(
        size,
        lambda step: (0, step) if along else (step, 0),
        transforms=swizzled(size[1], dtype),
        memory_space=plgpu.SMEM,
    )


def store_rows(
    block: Ref, first: Any, result: Ref, row: Any, count: Int[Array, ""], most: int
) -> None:
    """Begins to copy rows of a block in shared memory, from `first` on, to a result's from `row`.

    Copies have fixed sizes, so rows go in powers of two: those that `count` is the sum of.
    """
    size = most
    while size:

        @pl.when((count & size) != 0)
        def _copy(size: int = size, first: Any = first, row: Any = row) -> None:
            plgpu.copy_smem_to_gmem(block.at[pl.ds(first, size)], result.at[pl.ds(row, size)])

        first, row, size = first + (count & size), row + (count & size), size // 2


def each_place(places: tuple[int, int], run: Callable[[Any, Any], None]) -> None:
    """run(row, column) for the places that are this multiprocessor's: neighbours at one time."""

    @plgpu.nd_loop((places[0] * places[1],), collective_axes=MULTIPROCESSOR_AXIS)
    def _place(loop: plgpu.NDLoopInfo) -> None:
        run(*plgpu.planar_snake(loop.index[0], places, 1, NEIGHBOURS))


def ignore(*_: Any, **__: Any) -> None:
    """In place of a step: what blocks a pipeline needs does not depend on it."""


def call(
    body: Callable[..., None],
    name: str,
    results: Sequence[jax.ShapeDtypeStruct],
    *arrays: Any,
) -> tuple[Float[Array, "..."], ...]:
    """body(*arrays, *results), on every multiprocessor by three groups of four warps each."""
    kernel = plgpu.kernel(
        body,
        out_type=list(results),
        grid=(multiprocessors(),),
        grid_names=(MULTIPROCESSOR_AXIS,),
        num_threads=GROUPS + 1,
        thread_name=GROUP_AXIS,
        compiler_params=plgpu.CompilerParams(lowering_semantics=plgpu.LoweringSemantics.Warpgroup),
        kernel_name=name,
        interpret=interpret(),
    )
    return tuple(kernel(*arrays))


def multiprocessors() -> int:
    """How many the GPU has that programs are compiled for."""
    return getattr(target_device(), "core_count", None) or 132


def interpret() -> Any:
    """How kernels are interpreted: not at all. Tests say otherwise."""
    return False


pipeline = functools.partial(
    plgpu.emit_pipeline_warp_specialized,
    memory_registers=COPYING_REGISTERS,
    wg_axis=GROUP_AXIS,
    num_compute_wgs=GROUPS,
)
