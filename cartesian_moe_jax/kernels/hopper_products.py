"""The Hopper kernel whose results are rows: rows times their experts' weights, finished.

On every multiprocessor one group of warps copies blocks into shared memory, and two multiply them,
each half of a tile's rows. What they have summed they finish, some columns at a time, and store;
of a tile's rows only the expert's own.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float, Int

from cartesian_moe_jax.kernels.aligned_tiles import ALIGNMENT, AlignedTiles
from cartesian_moe_jax.kernels.blocks import Block
from cartesian_moe_jax.kernels.composed import Finish
from cartesian_moe_jax.kernels.hopper_call import (
    FINISHED,
    GROUP_AXIS,
    GROUPS,
    Ref,
    call,
    each_place,
    ignore,
    pipeline,
    row_blocks,
    store_rows,
    turned,
)
from cartesian_moe_jax.kernels.in_kernels import with_plain_sums
from cartesian_moe_jax.kernels.product_call import Like, number_of_sums


class _Arrays(NamedTuple):
    """What the kernel reads and writes, by what it is."""

    operands: Sequence[Ref]
    weights: Sequence[Ref]
    beside: Sequence[Ref]
    results: Sequence[Ref]


class _Shared(NamedTuple):
    """What lies in a multiprocessor's shared memory."""

    blocks: Any
    """Of operands and weights."""
    beside: Ref | None
    arrived: Ref | None
    """Says when a group's part of `beside` is there."""
    finished: Ref


def call_products(
    operands: Sequence[Float[Array, "rows summed"]],
    weights: Sequence[Float[Array, "experts ..."]],
    group_sizes: Int[Array, "experts"],
    beside: Sequence[Float[Array, "rows outputs"]],
    like: Like,
    finish: Finish,
    transposed: bool,
    block: Block,
) -> tuple[Float[Array, "rows outputs"], ...]:
    """A ProductKernel. The block's inputs are what is summed over, and it must divide the widths.

    Rows of no expert are left as they come.
    """
    tiles = AlignedTiles.of(group_sizes, operands[0].shape[0], block.rows)
    first, second = len(operands), len(operands) + len(weights)

    def body(*refs: Ref) -> None:
        tiles, refs = AlignedTiles(*refs[:4]), refs[4:]
        inner, results = refs[: second + len(beside)], refs[second + len(beside) :]
        arrays = _Arrays(inner[:first], inner[first:second], inner[second:], results)
        _Program(tiles, arrays, with_plain_sums(finish), transposed, block).run()

    name = "grouped_to_rows" if transposed else "grouped_forward"
    return call(body, name, like, *tiles, *operands, *weights, *beside)


@dataclasses.dataclass(frozen=True)
class _Program:
    """What one multiprocessor does."""

    tiles: AlignedTiles
    arrays: _Arrays
    finish: Finish
    transposed: bool
    block: Block

    def run(self) -> None:
        """Compute every tile that is this multiprocessor's."""
        arrays, block, dtype = self.arrays, self.block, self.arrays.operands[0].dtype
        beside = len(arrays.beside)

        @functools.partial(
            pl.run_scoped,
            blocks=self.pipeline(ignore, ignore).get_allocations(
                *arrays.operands, *[ref.at[0] for ref in arrays.weights]
            ),
            beside=plgpu.SMEM((beside, block.rows, block.outputs), dtype) if beside else None,
            arrived=plgpu.Barrier(num_arrivals=beside, num_barriers=GROUPS) if beside else None,
            finished=plgpu.SMEM((len(arrays.results), block.rows, FINISHED), dtype),
            collective_axes=GROUP_AXIS,
        )
        def _with_shared(blocks: Any, beside: Any, arrived: Any, finished: Any) -> None:
            shared = _Shared(blocks, beside, arrived, finished)
            places = self.tiles.first.shape[0], arrays.results[0].shape[1] // block.outputs
            each_place(places, functools.partial(self.tile, shared))

        plgpu.wait_smem_to_gmem(0, wait_read_only=True)

    def pipeline(self, step: Any, context: Any) -> Any:
        """The loop along the sum, which copies ahead."""
        arrays, block = self.arrays, self.block
        across = row_blocks((block.rows, block.inputs), arrays.operands[0].dtype, along=1)
        size, along = (block.inputs, block.outputs), 0
        if self.transposed:
            size, along = size[::-1], 1
        weight = row_blocks(size, arrays.weights[0].dtype, along)
        return pipeline(
            step,
            grid=(arrays.operands[0].shape[1] // block.inputs,),
            in_specs=[across] * len(arrays.operands) + [weight] * len(arrays.weights),
            max_concurrent_steps=block.stages,
            compute_context=context,
        )

    def tile(self, shared: _Shared, row: Any, column: Any) -> None:
        """Compute one tile, if there is such a one."""
        arrays, block = self.arrays, self.block
        expert, start, end = (ref[row] for ref in (self.tiles.expert, *self.tiles[2:]))
        first = pl.multiple_of(self.tiles.first[row], ALIGNMENT)
        columns = pl.ds(column * block.outputs, block.outputs)

        @pl.when(start < end)
        def _run() -> None:
            rows = pl.ds(first, block.rows)
            weights = [ref.at[expert] for ref in arrays.weights]
            context = functools.partial(self.finish_tile, shared, first, start, end, columns)
            self.pipeline(self.step, context)(
                *[ref.at[rows, :] for ref in arrays.operands],
                *[w.at[columns, :] if self.transposed else w.at[:, columns] for w in weights],
                allocations=shared.blocks,
            )

    def step(self, _: Any, *blocks_and_sums: Any) -> Any:
        """Multiply what has been copied, this group's half of the rows."""
        *blocks, sums = blocks_and_sums
        split = len(self.arrays.operands)
        operands, weights = blocks[:split], blocks[split:]
        own = self.own_rows()
        for i, weight in enumerate(weights):
            part = turned(weight) if self.transposed else weight
            operand = operands[min(i, len(operands) - 1)].at[own]
            plgpu.wgmma(sums[min(i, len(sums) - 1)], operand, part)
        # Then the block may be overwritten; the other group multiplies meanwhile.
        plgpu.wgmma_wait(0)
        return sums

    def own_rows(self) -> Any:
        """This group's half of a tile's rows."""
        half = self.block.rows // GROUPS
        return pl.ds(jax.lax.axis_index(GROUP_AXIS) * half, half)

    def finish_tile(
        self, shared: _Shared, first: Any, start: Any, end: Any, columns: Any, evaluate: Any
    ) -> None:
        """Sum, finish and store this group's rows of a tile."""
        arrays, own = self.arrays, self.own_rows()
        first = first + own.start
        low, high = (jnp.clip(row - first, 0, own.size) for row in (start, end))
        for i, ref in enumerate(arrays.beside):
            window = ref.at[pl.ds(first, own.size), columns]
            arrived = shared.arrived.at[jax.lax.axis_index(GROUP_AXIS)]
            plgpu.copy_gmem_to_smem(window, shared.beside.at[i, own], arrived)

        def finish(*sums: Ref) -> None:
            evaluate(sums)
            values = [total[...] for total in sums]
            if arrays.beside:
                plgpu.barrier_wait(shared.arrived.at[jax.lax.axis_index(GROUP_AXIS)])
            for begin in range(0, self.block.outputs, FINISHED):
                some = slice(begin, begin + FINISHED)
                sides = [shared.beside[i, own, some] for i in range(len(arrays.beside))]
                parts = self.finish(
                    *[value[:, some] for value in values],
                    *[side.astype(jnp.float32) for side in sides],
                )
                self.store(shared, parts, first + low, low, high - low, columns.start + begin)

        size = own.size, self.block.outputs
        count = number_of_sums(arrays.operands, arrays.weights)
        pl.run_scoped(finish, *[plgpu.ACC(size, jnp.float32)] * count)

    def store(
        self, shared: _Shared, parts: Any, row: Any, skipped: Any, count: Any, column: Any
    ) -> None:
        """Store the expert's own rows of some finished columns."""
        own = self.own_rows()
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)
        for i, part in enumerate(parts):
            shared.finished[i, own] = part.astype(shared.finished.dtype)
        plgpu.commit_smem()
        for i, result in enumerate(self.arrays.results):
            target = result.at[:, pl.ds(column, FINISHED)]
            store_rows(shared.finished.at[i], own.start + skipped, target, row, count, own.size)
