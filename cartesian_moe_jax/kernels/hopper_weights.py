"""The Hopper kernel of weight gradients: sums over each expert's rows of outer products.

A tile is a piece of one expert's gradient. One group of warps copies blocks of rows, and two
multiply them, each for half of the tile's inputs; before that they put zeros in place of rows of
other experts. Their outputs' gradients stay, so one that is not finite spoils its neighbours' too.
"""

import dataclasses
import functools
from collections.abc import Callable
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
    divide_work,
    each_place,
    turned,
)
from cartesian_moe_jax.kernels.hopper_ring import Ring
from cartesian_moe_jax.kernels.hopper_stores import Stores
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


LINE = 128
"""Bytes that threads write fastest at a time: of so many a stored block is wide."""


class _Shared(NamedTuple):
    """What lies in a multiprocessor's shared memory."""

    ring: Ring
    """Of blocks of rows and of the outputs' gradients."""
    cleared: Ref
    """Says when both groups have cleared their half of a block."""
    stores: Stores


class _Tile(NamedTuple):
    """A piece of an expert's gradient."""

    expert: Any
    start: Any
    """The expert's first row, and where its rows end."""
    end: Any
    live: Any
    """Where all experts' rows end."""
    row: Any
    """Of blocks; and the column."""
    column: Any


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
        block, dtype = self.block, self.rows.dtype
        sizes = (block.rows, block.inputs), (block.rows, block.outputs)

        @functools.partial(
            pl.run_scoped,
            ring=Ring.allocations(sizes, dtype, block.stages),
            cleared=plgpu.Barrier(num_arrivals=GROUPS),
            stores=Stores.allocation(block.inputs, self.stored, self.result.dtype),
            collective_axes=GROUP_AXIS,
        )
        def _with_shared(ring: Any, cleared: Any, stores: Any) -> None:
            shared = _Shared(ring, cleared, Stores(*stores))
            divide_work(
                lambda: ring.drain(self.each_tile(functools.partial(self.copy, shared))),
                lambda: self.each_tile(functools.partial(self.multiply, shared)),
            )

    @property
    def stored(self) -> int:
        """Columns that are stored at a time."""
        return LINE // self.result.dtype.itemsize

    def each_tile(self, run: Callable[[_Tile, Any, Any], None]) -> Any:
        """run(tile, first step, steps) for every tile; returns the steps of all."""
        experts, inputs, outputs = self.result.shape
        across = inputs // self.block.inputs
        places = experts * across, outputs // self.block.outputs

        def tile_at(line: Any, column: Any) -> _Tile:
            expert, row = (of(line, jnp.int32(across)) for of in (jax.lax.div, jax.lax.rem))
            start, end, live = self.starts[expert], self.ends[expert], self.ends[experts - 1]
            return _Tile(expert, start, end, live, row, column)

        def one(tile: _Tile, step: Any) -> Any:
            rows = tile.end - aligned(tile.start)
            steps = jnp.where(tile.start < tile.end, pl.cdiv(rows, self.block.rows), 0)
            run(tile, step, steps)
            return step + steps

        return each_place(places, tile_at, one)

    def copy(self, shared: _Shared, tile: _Tile, first: Any, steps: Any) -> None:
        """Copy an expert's rows, block after block."""
        block = self.block
        inputs = pl.ds(tile.row * block.inputs, block.inputs)
        outputs = pl.ds(tile.column * block.outputs, block.outputs)
        begin = pl.multiple_of(aligned(tile.start), ALIGNMENT)

        def one(step: Any, _: None) -> None:
            rows = pl.ds(begin + step * block.rows, block.rows)
            windows = self.rows.at[rows, inputs], self.d_outputs.at[rows, outputs]
            shared.ring.copy(first + step, windows)

        jax.lax.fori_loop(0, steps, one, None)

    def multiply(self, shared: _Shared, tile: _Tile, first: Any, steps: Any) -> None:
        """Sum and store this group's half of a tile."""

        def run(total: Ref) -> None:
            product = functools.partial(self.product, shared, tile, total)
            shared.ring.multiply(first, steps, 1, product)
            self.store(shared.stores, tile, total[...])

        size = self.own_inputs().size, self.block.outputs
        pl.run_scoped(run, plgpu.ACC(size, jnp.float32))

    def product(
        self, shared: _Shared, tile: _Tile, total: Ref, step: Any, rows: Ref, d_outputs: Ref
    ) -> None:
        """Add what a block of rows gives to this group's half of the inputs."""
        begin = aligned(tile.start) + step * self.block.rows

        end = begin + self.block.rows

        @pl.when(jnp.logical_or(begin < tile.start, tile.end < end))
        def _clear_others() -> None:
            # The half that the group multiplies: a zero there is a zero in all its products.
            _clear_half(rows, begin, tile)
            plgpu.commit_smem()

        @pl.when(tile.live < end)
        def _clear_dead() -> None:
            # But for NaN, which what is behind all experts' rows may be.
            _clear_half(d_outputs, begin, tile)
            plgpu.commit_smem()
            plgpu.barrier_arrive(shared.cleared)
            plgpu.barrier_wait(shared.cleared)

        plgpu.wgmma(total, turned(rows.at[:, self.own_inputs()]), d_outputs)

    def own_inputs(self) -> Any:
        """This group's half of a tile's inputs."""
        half = self.block.inputs // GROUPS
        return pl.ds(jax.lax.axis_index(GROUP_AXIS) * half, half)

    def store(self, stores: Stores, tile: _Tile, total: Float[Array, "inputs outputs"]) -> None:
        """Store this group's half of a tile, some columns at a time."""
        own, block = self.own_inputs(), self.block
        inputs = pl.ds(tile.row * block.inputs + own.start, own.size)
        for turn, begin in enumerate(range(0, block.outputs, self.stored)):
            outputs = pl.ds(tile.column * block.outputs + begin, self.stored)
            part = total[:, begin : begin + self.stored]
            stores.store(turn, own, part, self.result.at[tile.expert, inputs, outputs])


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
