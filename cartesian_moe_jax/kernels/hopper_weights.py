"""The Hopper kernel of weight gradients: sums over each expert's rows of outer products.

A tile is a piece of one expert's gradient. One group of warps copies blocks of rows, and two
multiply them, each for half of the tile's inputs; before that they put zeros in place of rows of
other experts.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float, Int

from cartesian_moe_jax.kernels.aligned_tiles import ALIGNMENT, aligned
from cartesian_moe_jax.kernels.blocks import Block
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
    turned,
)
from cartesian_moe_jax.kernels.row_visits import bounds


def call_to_weights(
    rows: Float[Array, "rows inputs"],
    d_outputs: Float[Array, "rows outputs"],
    group_sizes: Int[Array, "experts"],
    result: jax.ShapeDtypeStruct,
    block: Block,
) -> Float[Array, "experts inputs outputs"]:
    """The gradient of each expert's weights, rounded once; zeros without rows.

    The block must divide the widths.
    """
    starts, ends = bounds(group_sizes)

    def body(*refs: Ref) -> None:
        _Program(*refs, block=block).run()

    (total,) = call(body, "grouped_to_weights", (result,), starts, ends, rows, d_outputs)
    return total


class _Shared(NamedTuple):
    """What lies in a multiprocessor's shared memory."""

    blocks: Any
    """Of rows and of the outputs' gradients."""
    cleared: Ref
    """Says when both groups have cleared their half of a block."""
    finished: Ref


class _Tile(NamedTuple):
    """A piece of an expert's gradient."""

    expert: Any
    start: Any
    """The expert's first row, and where its rows end."""
    end: Any
    inputs: Any
    outputs: Any


@dataclasses.dataclass(frozen=True)
class _Program:
    """What one multiprocessor does."""

    starts: Ref
    ends: Ref
    rows: Ref
    d_outputs: Ref
    result: Ref
    block: Block

    def run(self) -> None:
        """Compute every tile that is this multiprocessor's."""
        block = self.block

        @functools.partial(
            pl.run_scoped,
            blocks=self.pipeline(ignore, ignore, block.stages).get_allocations(
                self.rows, self.d_outputs
            ),
            cleared=plgpu.Barrier(num_arrivals=GROUPS),
            finished=plgpu.SMEM((block.inputs, FINISHED), self.result.dtype),
            collective_axes=GROUP_AXIS,
        )
        def _with_shared(blocks: Any, cleared: Ref, finished: Ref) -> None:
            shared = _Shared(blocks, cleared, finished)
            experts, inputs, outputs = self.result.shape
            across = inputs // block.inputs
            places = experts * across, outputs // block.outputs

            def run(line: Any, column: Any) -> None:
                expert = jax.lax.div(line, jnp.int32(across))
                tile = _Tile(
                    expert,
                    self.starts[expert],
                    self.ends[expert],
                    pl.ds(jax.lax.rem(line, jnp.int32(across)) * block.inputs, block.inputs),
                    pl.ds(column * block.outputs, block.outputs),
                )
                self.tile(shared, tile)

            each_place(places, run)

        plgpu.wait_smem_to_gmem(0, wait_read_only=True)

    def pipeline(self, step: Any, context: Any, steps: Any) -> Any:
        """The loop over an expert's rows, which copies ahead."""
        block, dtype = self.block, self.rows.dtype
        return pipeline(
            step,
            grid=(steps,),
            in_specs=[
                row_blocks((block.rows, block.inputs), dtype, along=0),
                row_blocks((block.rows, block.outputs), dtype, along=0),
            ],
            max_concurrent_steps=block.stages,
            compute_context=context,
        )

    def tile(self, shared: _Shared, tile: _Tile) -> None:
        """Sum and store one tile."""
        first = pl.multiple_of(aligned(tile.start), ALIGNMENT)
        steps = jnp.where(
            tile.start < tile.end, pl.cdiv(tile.end - first, self.block.rows), jnp.int32(0)
        )
        # It may reach beyond the array; no step does.
        below = pl.ds(first, self.rows.shape[0])
        self.pipeline(
            functools.partial(self.step, shared, tile, first),
            functools.partial(self.finish_tile, shared, tile),
            steps,
        )(
            self.rows.at[below, tile.inputs],
            self.d_outputs.at[below, tile.outputs],
            allocations=shared.blocks,
        )

    def step(
        self,
        shared: _Shared,
        tile: _Tile,
        first: Any,
        place: Any,
        rows: Ref,
        d_outputs: Ref,
        total: Ref,
    ) -> Ref:
        """Add what a block of rows gives to this group's half of the inputs."""
        begin = first + place[0] * self.block.rows

        @pl.when(jnp.logical_or(begin < tile.start, tile.end < begin + self.block.rows))
        def _clear_others() -> None:
            # In both: what is behind all experts' rows may be NaN.
            for block in (rows, d_outputs):
                _clear_half(block, begin, tile)
            plgpu.commit_smem()
            plgpu.barrier_arrive(shared.cleared)
            plgpu.barrier_wait(shared.cleared)

        plgpu.wgmma(total, turned(rows.at[:, self.own_inputs()]), d_outputs)
        # Then the block may be overwritten; the other group multiplies meanwhile.
        plgpu.wgmma_wait(0)
        return total

    def own_inputs(self) -> Any:
        """This group's half of a tile's inputs."""
        half = self.block.inputs // GROUPS
        return pl.ds(jax.lax.axis_index(GROUP_AXIS) * half, half)

    def finish_tile(self, shared: _Shared, tile: _Tile, evaluate: Any) -> None:
        """Sum and store this group's half of a tile."""
        own, finished = self.own_inputs(), shared.finished

        def finish(total: Ref) -> None:
            evaluate(total)
            value = total[...]
            for begin in range(0, self.block.outputs, FINISHED):
                plgpu.wait_smem_to_gmem(0, wait_read_only=True)
                part = value[:, begin : begin + FINISHED]
                finished[own] = part.astype(finished.dtype)
                plgpu.commit_smem()
                inputs = pl.ds(tile.inputs.start + own.start, own.size)
                outputs = pl.ds(tile.outputs.start + begin, FINISHED)
                plgpu.copy_smem_to_gmem(
                    finished.at[own], self.result.at[tile.expert, inputs, outputs]
                )

        pl.run_scoped(finish, plgpu.ACC((own.size, self.block.outputs), jnp.float32))


def _clear_half(block: Ref, begin: Any, tile: _Tile) -> None:
    """Puts zeros in place of other experts' rows, in this group's half of the columns."""
    height, width = block.shape[0], block.shape[1] // GROUPS
    for offset in range(0, width, FINISHED):
        some = min(FINISHED, width - offset)
        columns = pl.ds(jax.lax.axis_index(GROUP_AXIS) * width + offset, some)
        index = jax.lax.broadcasted_iota(jnp.int32, (height, some), 0)
        row = begin + plgpu.layout_cast(index, plgpu.Layout.WGMMA)
        own = jnp.logical_and(tile.start <= row, row < tile.end)
        block[:, columns] = jnp.where(own, block[:, columns], 0)
