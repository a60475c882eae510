"""The Hopper kernel of weight gradients: sums over each expert's rows of outer products.

A tile is a piece of one expert's gradient. One group of warps copies blocks of rows, and two
multiply them: each for half of every tile's inputs, or each for whole tiles in turns
(hopper_teams.py). Before that they put zeros in place of rows of other experts. Where groups share
a tile, their outputs' gradients stay, so one that is not finite spoils its neighbours' too.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
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
from cartesian_moe_jax.kernels.hopper_teams import TOGETHER, Teams, own_half
from cartesian_moe_jax.kernels.row_visits import bounds


def call_to_weights(
    rows: Float[Array, "rows inputs"],
    d_outputs: Float[Array, "rows outputs"],
    group_sizes: Int[Array, "experts"],
    result: jax.ShapeDtypeStruct,
    block: Block,
    teams: Teams = TOGETHER,
) -> Float[Array, "experts inputs outputs"]:
    """The gradient of each expert's weights, rounded once; zeros without rows.

    The block must divide the widths.
    """
    starts, ends = bounds(group_sizes)

    def body(*refs: Ref) -> None:
        _Program(*refs, block=block, teams=teams).run()

    (total,) = call(body, "grouped_to_weights", (result,), starts, ends, rows, d_outputs)
    return total


LINE = 128
"""Bytes that threads write fastest at a time: of so many a stored block is wide."""


class _Shared(NamedTuple):
    """What lies in a multiprocessor's shared memory."""

    ring: Ring
    """Of blocks of rows and of the outputs' gradients."""
    cleared: Ref | None
    """Says when all of several members of a team have cleared their half of a block."""
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
    team: Any
    """That has it (Teams.at)."""


@dataclasses.dataclass(frozen=True)
class _Program:
    """What one multiprocessor does."""

    starts: Ref
    ends: Ref
    rows: Ref
    d_outputs: Ref
    result: Ref
    block: Block
    teams: Teams

    def run(self) -> None:
        """Compute every tile that is this multiprocessor's."""
        block, dtype = self.block, self.rows.dtype
        sizes = (block.rows, block.inputs), (block.rows, block.outputs)

        @functools.partial(
            pl.run_scoped,
            ring=Ring.allocations(sizes, dtype, block.stages, self.teams),
            cleared=plgpu.Barrier(num_arrivals=GROUPS) if self.teams == TOGETHER else None,
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

        def tile_at(line: Any, column: Any, turn: Any) -> _Tile:
            expert, row = (of(line, jnp.int32(across)) for of in (jax.lax.div, jax.lax.rem))
            start, end, live = self.starts[expert], self.ends[expert], self.ends[experts - 1]
            return _Tile(expert, start, end, live, row, column, self.teams.at(turn))

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
            shared.ring.copy(first + step, windows, tile.team)

        jax.lax.fori_loop(0, steps, one, None)

    def multiply(self, shared: _Shared, tile: _Tile, first: Any, steps: Any) -> None:
        """Sum and store this group's halves of a tile, if it has any."""

        def run(*sums: Ref) -> None:
            product = functools.partial(self.product, shared, tile, sums)
            shared.ring.multiply(first, steps, tile.team, len(sums), product)
            self.store(shared.stores, tile, [total[...] for total in sums])

        size = own_half(self.block.inputs).size, self.block.outputs
        sums = [plgpu.ACC(size, jnp.float32)] * self.teams.count
        self.teams.if_ours(tile.team, lambda: pl.run_scoped(run, *sums))

    def product(
        self,
        shared: _Shared,
        tile: _Tile,
        sums: Sequence[Ref],
        step: Any,
        rows: Ref,
        d_outputs: Ref,
    ) -> None:
        """Add what a block of rows gives to this group's halves of the inputs."""
        begin = aligned(tile.start) + step * self.block.rows
        end = begin + self.block.rows

        @pl.when(jnp.logical_or(begin < tile.start, tile.end < end))
        def _clear_others() -> None:
            # The inputs that the group multiplies: a zero there is a zero in all its products.
            self.clear(rows, begin, tile)
            if shared.cleared is None:
                # But for values that are not finite. No other group reads them.
                self.clear(d_outputs, begin, tile)
            plgpu.commit_smem()

        if shared.cleared is not None:

            @pl.when(tile.live < end)
            def _clear_dead() -> None:
                # But for NaN, which what is behind all experts' rows may be.
                self.clear(d_outputs, begin, tile)
                plgpu.commit_smem()
                plgpu.barrier_arrive(shared.cleared)
                plgpu.barrier_wait(shared.cleared)

        own = own_half(self.block.inputs)
        for half, total in enumerate(sums):
            inputs = self.teams.half(own, half)
            plgpu.wgmma(total, turned(rows.at[:, inputs]), d_outputs)

    def clear(self, block: Ref, first: Any, tile: _Tile) -> None:
        """Put zeros in place of other experts' rows, in this group's halves of the columns.

        The block's rows are those from `first` on.
        """
        height, width = block.shape
        size = width // GROUPS
        some = min(FINISHED, size)
        for half, begin in itertools.product(range(self.teams.count), range(0, size, some)):
            own = self.teams.half(own_half(width), half)
            columns = pl.ds(own.start + begin, some)
            index = jax.lax.broadcasted_iota(jnp.int32, (height, some), 0)
            row = first + plgpu.layout_cast(index, plgpu.Layout.WGMMA)
            live = jnp.logical_and(tile.start <= row, row < tile.end)
            block[:, columns] = jnp.where(live, block[:, columns], 0)

    def store(
        self, stores: Stores, tile: _Tile, totals: Sequence[Float[Array, "inputs outputs"]]
    ) -> None:
        """Store this group's halves of a tile, some columns at a time."""
        own, block = own_half(self.block.inputs), self.block
        begins = range(0, block.outputs, self.stored)
        pieces = [(half, begin) for half in range(len(totals)) for begin in begins]
        stores.begin(len(begins))
        for turn, (half, begin) in enumerate(pieces):
            first = tile.row * block.inputs + self.teams.half(own, half).start
            columns = pl.ds(tile.column * block.outputs + begin, self.stored)
            some = totals[half][:, begin : begin + self.stored]
            window = self.result.at[tile.expert, pl.ds(first, own.size), columns]
            stores.store(turn, own, some, window)
