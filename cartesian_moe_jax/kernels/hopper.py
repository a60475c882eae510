"""Grouped matmuls for Hopper GPUs: two Pallas kernels, compiled by Mosaic.

Blocks are copied by the GPU's own copying engine while two groups of warps multiply what came
before, straight from shared memory. For bfloat16 and, not yet run on a GPU, float16; and for widths
that blocks divide.

What others call warp-specialised persistent kernels: the copying engine is the TMA, a group of
warps a warpgroup, the one that copies the producer, those that multiply (`wgmma`) the consumers.
`Ring` is their pipeline of stages, and its barriers are mbarriers: `copied` the full ones,
`released` the empty ones. A sum is an accumulator, and what finishes and stores it the epilogue.
Teams that share a tile are called cooperative, those that take turns ping-pong.

Shared memory by leg, in elements, of blocks of rows x inputs x outputs (`_shared_memory`):

| leg | each of `stages` steps | beside them, once |
|---|---|---|
| forward | rows x inputs + products x inputs x outputs | 2 x rows x 64 stored |
| to_rows | rows x outputs + inputs x outputs | the same; of one product 2 x rows x 64 beside it |
| to_weights | rows x inputs + rows x outputs | 2 x inputs x 128 bytes stored |
"""

import functools
from collections.abc import Mapping
from types import MappingProxyType

import jax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from cartesian_moe_jax.kernels.blocks import BYTES, Block, LegShape, memory_on_chip
from cartesian_moe_jax.kernels.composed import Finish, GroupedMatmul
from cartesian_moe_jax.kernels.hopper_call import FINISHED, THREADS
from cartesian_moe_jax.kernels.hopper_products import call_products
from cartesian_moe_jax.kernels.hopper_stores import TURNS
from cartesian_moe_jax.kernels.hopper_teams import IN_TURNS, TOGETHER, Teams
from cartesian_moe_jax.kernels.hopper_weights import LINE, call_to_weights
from cartesian_moe_jax.kernels.opaque_call import opaque_call
from cartesian_moe_jax.kernels.product_call import call_finished
from cartesian_moe_jax.platform import target_device

BLOCKS: Mapping[str, tuple[Block, ...]] = MappingProxyType(
    {
        "forward": (
            Block(128, 64, 256, 8, 4),
            Block(128, 64, 128, 8, 6),
            Block(128, 64, 128, 8, 4),
        ),
        "to_rows": (
            Block(128, 256, 64, 8, 4),
            Block(128, 128, 64, 8, 6),
            Block(128, 128, 64, 8, 5),
        ),
        "to_weights": (
            Block(64, 128, 256, 8, 4),
            Block(64, 128, 128, 8, 6),
        ),
    }
)
"""By leg, what to try, as in blocks.py, where groups share tiles.

Their `warps` mean nothing here: two groups of four multiply.
"""
BLOCKS_IN_TURNS: Mapping[str, tuple[Block, ...]] = MappingProxyType(
    {
        "forward": (Block(128, 64, 128, 8, 6), Block(128, 64, 64, 8, 6)),
        "to_rows": (Block(128, 128, 64, 8, 6), Block(128, 128, 64, 8, 5)),
        "to_weights": (Block(64, 128, 128, 8, 6),),
    }
)
"""The same where each group has tiles of its own, whose whole sums its registers hold."""
HEIGHT = 128
"""Of tiles: each group has a half or both, of 64 rows, which tensor cores multiply at a time."""
MOST_SUMS = 128
"""Registers of a thread for sums; it needs the others to finish them."""
BARRIERS = 1024
"""Bytes of shared memory beside the blocks, at the most."""


def is_hopper() -> bool:
    """Whether programs are compiled for a GPU that can run these kernels."""
    return str(getattr(target_device(), "compute_capability", "")).startswith("9.")


def hopper_candidates(shape: LegShape, teams: Teams = TOGETHER) -> tuple[Block, ...]:
    """All blocks that a leg can be computed with, of each size the deepest; none for float32."""
    found: dict[tuple[int, ...], Block] = {}
    for block in (BLOCKS_IN_TURNS if teams == IN_TURNS else BLOCKS)[shape.leg]:
        if hopper_fits(block, shape, teams):
            found.setdefault((block.rows, block.inputs, block.outputs), block)
    return tuple(found.values())


def hopper_fits(block: Block, shape: LegShape, teams: Teams = TOGETHER) -> bool:
    """Whether a kernel can be made of a block; one that keeps its sums in registers."""
    height, width = {
        "forward": (block.rows, block.outputs * shape.products),
        "to_rows": (block.rows, block.inputs),
        "to_weights": (block.inputs, block.outputs),
    }[shape.leg]
    divided = shape.inputs % block.inputs == shape.outputs % block.outputs == 0
    wide = all(size % FINISHED == 0 for size in (block.rows, block.inputs, block.outputs))
    in_registers = height * width // (teams.members * THREADS) <= MOST_SUMS
    on_chip = in_registers and _shared_memory(block, shape) <= memory_on_chip()
    return BYTES[shape.dtype] == 2 and divided and wide and height == HEIGHT and on_chip


def hopper_matmul(block: Block, teams: Teams = TOGETHER) -> GroupedMatmul:
    """The grouped matmul in blocks of one size, which must suit the leg that is used."""
    return GroupedMatmul(
        functools.partial(_forward, block, teams),
        functools.partial(_to_rows, block, teams),
        functools.partial(_to_weights, block, teams),
    )


def _shared_memory(block: Block, shape: LegShape) -> int:
    rows, weights = block.rows * block.inputs, block.inputs * block.outputs
    d_outputs, some = block.rows * block.outputs, block.rows * FINISHED
    staged, once = {
        "forward": (rows + shape.products * weights, TURNS * some),
        # Of products that are added up one is computed after the other.
        "to_rows": (d_outputs + weights, (TURNS + (2 if shape.products == 1 else 0)) * some),
        "to_weights": (rows + d_outputs, TURNS * block.inputs * LINE // BYTES[shape.dtype]),
    }[shape.leg]
    return BYTES[shape.dtype] * (block.stages * staged + once) + BARRIERS


def _forward(
    block: Block,
    teams: Teams,
    rows: Float[Array, "rows inputs"],
    weights: tuple[Float[Array, "experts inputs outputs"], ...],
    group_sizes: Int[Array, "experts"],
    finish: Finish,
) -> tuple[Float[Array, "rows outputs"], ...]:
    return call_finished(
        call_products,
        (rows,),
        weights,
        group_sizes,
        finish,
        (),
        transposed=False,
        block=block,
        teams=teams,
    )


def _to_rows(
    block: Block,
    teams: Teams,
    d_outputs: tuple[Float[Array, "rows outputs"], ...],
    weights: tuple[Float[Array, "experts inputs outputs"], ...],
    group_sizes: Int[Array, "experts"],
    finish: Finish,
    *beside: Float[Array, "rows inputs"],
) -> tuple[Float[Array, "rows inputs"], ...]:
    turned = Block(block.rows, block.outputs, block.inputs, block.warps, block.stages)
    return call_finished(
        call_products,
        d_outputs,
        weights,
        group_sizes,
        finish,
        beside,
        transposed=True,
        block=turned,
        teams=teams,
    )


def _to_weights(
    block: Block,
    teams: Teams,
    rows: Float[Array, "rows inputs"],
    d_outputs: Float[Array, "rows outputs"],
    group_sizes: Int[Array, "experts"],
    dtype: DTypeLike,
) -> Float[Array, "experts inputs outputs"]:
    shape = (group_sizes.shape[0], rows.shape[1], d_outputs.shape[1])
    result = jax.ShapeDtypeStruct(shape, dtype)
    operands = rows, d_outputs, group_sizes
    (total,) = opaque_call(
        _run_to_weights, (result,), *operands, like=result, block=block, teams=teams
    )
    return total


def _run_to_weights(
    rows: Float[Array, "rows inputs"],
    d_outputs: Float[Array, "rows outputs"],
    group_sizes: Int[Array, "experts"],
    like: jax.ShapeDtypeStruct,
    block: Block,
    teams: Teams,
) -> tuple[Float[Array, "experts inputs outputs"]]:
    return (call_to_weights(rows, d_outputs, group_sizes, like, block, teams),)
