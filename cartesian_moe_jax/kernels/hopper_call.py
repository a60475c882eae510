"""What the kernels for Hopper GPUs have in common: how they are called, and how they store."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float

from cartesian_moe_jax.platform import target_device

Ref = Any
"""An array in one of the GPU's memories, as a kernel sees it."""

GROUPS = 2
"""Groups of four warps that multiply; a further one copies."""
THREADS = 128
"""Of a group."""
GROUP_AXIS, MULTIPROCESSOR_AXIS = "group", "multiprocessor"
FINISHED = 64
"""Columns that are finished at a time: as much as registers can hold beside the sums."""
NEIGHBOURS = 8
"""Blocks of columns that are computed at one time, for rows that are then in the cache."""
COPYING_REGISTERS = 40
"""For a thread that copies."""
MULTIPLYING_REGISTERS = 232
"""For one that multiplies: of the 512 that three threads share."""


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


def each_place(
    places: tuple[int, int],
    tile_at: Callable[[Any, Any, Any], Any],
    run: Callable[[Any, Any], Any],
) -> Any:
    """step = run(tile_at(row, column, turn), step) for the places that are this multiprocessor's.

    Neighbours are computed at one time. A tile is looked up while the one before is computed.
    """
    count = places[0] * places[1]
    mine, stride = (of(MULTIPROCESSOR_AXIS) for of in (jax.lax.axis_index, jax.lax.axis_size))

    def tile(turn: Any) -> Any:
        place = jnp.minimum(mine + turn * stride, count - 1)
        return tile_at(*plgpu.planar_snake(place, places, 1, NEIGHBOURS), turn)

    def body(turn: Any, state: Any) -> Any:
        now, step = state
        return tile(turn + 1), run(now, step)

    turns = jax.lax.div(count - 1 - mine + stride, stride)
    return jax.lax.fori_loop(0, turns, body, (tile(0), jnp.int32(0)))[1]


def divide_work(copy: Callable[[], None], multiply: Callable[[], None]) -> None:
    """Let one group of warps copy, with few registers, and the others multiply."""

    def _copy() -> None:
        plgpu.set_max_registers(COPYING_REGISTERS, action="decrease")
        copy()

    def _multiply() -> None:
        plgpu.set_max_registers(MULTIPLYING_REGISTERS, action="increase")
        multiply()
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)

    jax.lax.cond(jax.lax.axis_index(GROUP_AXIS) == GROUPS, _copy, _multiply)


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
        compiler_params=plgpu.CompilerParams(
            lowering_semantics=plgpu.LoweringSemantics.Warpgroup,
            # Results are rounded to far fewer bits.
            approx_math=True,
        ),
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
