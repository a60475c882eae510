"""The Hopper kernel whose results are rows: rows times their experts' weights, finished.

On every multiprocessor one group of warps copies blocks into shared memory, and two multiply them:
each half of every tile's rows, or each whole tiles in turns (hopper_teams.py). What they have
summed they finish, some columns at a time, and store; of a tile's rows only the expert's own.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
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
    divide_work,
    each_place,
    swizzled,
    turned,
)
from cartesian_moe_jax.kernels.hopper_ring import Ring
from cartesian_moe_jax.kernels.hopper_stores import Stores
from cartesian_moe_jax.kernels.hopper_teams import TOGETHER, Teams, own_half
from cartesian_moe_jax.kernels.in_kernels import in_hopper_forms
from cartesian_moe_jax.kernels.product_call import Like


class _Arrays(NamedTuple):
    """What the kernel reads and writes, by what it is."""

    operands: Sequence[Ref]
    weights: Sequence[Ref]
    beside: Sequence[Ref]
    results: Sequence[Ref]


class _Shared(NamedTuple):
    """What lies in a multiprocessor's shared memory."""

    ring: Ring
    """Of blocks of operands and weights."""
    beside: Ref | None
    """What some columns are finished with."""
    arrived: Ref | None
    """Says when a group's part of `beside` is there."""
    stores: Stores


class _Tile(NamedTuple):
    """A piece of the results."""

    expert: Any
    first: Any
    start: Any
    """The expert's first row, and where its rows end."""
    end: Any
    column: Any
    """Of blocks."""
    team: Any
    """That has it (Teams.at)."""


class _Piece(NamedTuple):
    """What a group finishes at one time."""

    half: int
    """Of a tile; by its number among those that the group has."""
    begin: int
    """The first of FINISHED columns."""


def call_products(
    operands: Sequence[Float[Array, "rows summed"]],
    weights: Sequence[Float[Array, "experts ..."]],
    group_sizes: Int[Array, "experts"],
    beside: Sequence[Float[Array, "rows outputs"]],
    like: Like,
    finish: Finish,
    transposed: bool,
    block: Block,
    teams: Teams = TOGETHER,
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
        _Program(tiles, arrays, in_hopper_forms(finish), transposed, block, teams).run()

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
    teams: Teams

    def run(self) -> None:
        """Compute every tile that is this multiprocessor's."""
        arrays, block, dtype = self.arrays, self.block, self.arrays.operands[0].dtype
        beside = len(arrays.beside)
        weight = (block.inputs, block.outputs)
        weights = [weight[::-1] if self.transposed else weight] * self.at_a_time
        sizes = [(block.rows, block.inputs), *weights]

        @functools.partial(
            pl.run_scoped,
            ring=Ring.allocations(sizes, dtype, block.stages, self.teams),
            beside=plgpu.SMEM(
                (beside, block.rows, FINISHED), dtype, transforms=swizzled(FINISHED, dtype)
            )
            if beside
            else None,
            arrived=plgpu.Barrier(num_arrivals=beside, num_barriers=GROUPS) if beside else None,
            stores=Stores.allocation(block.rows, FINISHED, dtype),
            collective_axes=GROUP_AXIS,
        )
        def _with_shared(ring: Any, beside: Any, arrived: Any, stores: Any) -> None:
            shared = _Shared(ring, beside, arrived, Stores(*stores))
            divide_work(
                lambda: ring.drain(self.each_tile(functools.partial(self.copy, shared))),
                lambda: self.each_tile(functools.partial(self.multiply, shared)),
            )

    @property
    def at_a_time(self) -> int:
        """Weights that a block of an operand is multiplied with."""
        return len(self.arrays.weights) // len(self.arrays.operands)

    @property
    def steps(self) -> int:
        """Blocks that an operand has, along the sum."""
        return self.arrays.operands[0].shape[1] // self.block.inputs

    def each_tile(self, run: Callable[[_Tile, Any, Any], None]) -> Any:
        """run(tile, first step, steps) for every tile; returns the steps of all."""
        needed = jnp.int32(len(self.arrays.operands) * self.steps)
        places = (
            self.tiles.first.shape[0],
            self.arrays.results[0].shape[1] // self.block.outputs,
        )

        def tile_at(row: Any, column: Any, turn: Any) -> _Tile:
            expert, first, start, end = (ref[row] for ref in self.tiles)
            return _Tile(expert, first, start, end, column, self.teams.at(turn))

        def one(tile: _Tile, step: Any) -> Any:
            steps = jnp.where(tile.start < tile.end, needed, 0)
            run(tile, step, steps)
            return step + steps

        return each_place(places, tile_at, one)

    def copy(self, shared: _Shared, tile: _Tile, first: Any, steps: Any) -> None:
        """Copy a tile's operands and weights, block after block, one operand after the other."""
        for i, operand in enumerate(self.arrays.operands):
            weights = self.arrays.weights[i * self.at_a_time :][: self.at_a_time]
            begin = first + i * self.steps
            one = functools.partial(self.copy_step, shared.ring, tile, begin, operand, weights)
            jax.lax.fori_loop(0, jnp.minimum(steps, self.steps), one, None)

    def copy_step(
        self, ring: Ring, tile: _Tile, begin: Any, operand: Ref, weights: Any, step: Any, _: None
    ) -> None:
        """Copy one block of an operand, and those that it is multiplied with."""
        block, columns = self.block, self.columns(tile)
        rows = pl.ds(pl.multiple_of(tile.first, ALIGNMENT), block.rows)
        along = pl.ds(step * block.inputs, block.inputs)
        place = (columns, along) if self.transposed else (along, columns)
        windows = [operand.at[rows, along], *[ref.at[(tile.expert, *place)] for ref in weights]]
        ring.copy(begin + step, windows, tile.team)

    def columns(self, tile: _Tile) -> Any:
        """The results' columns that a tile has."""
        return pl.ds(tile.column * self.block.outputs, self.block.outputs)

    def own(self) -> Any:
        """This group's half of memory for as many rows as a tile has."""
        return own_half(self.block.rows)

    def multiply(self, shared: _Shared, tile: _Tile, first: Any, steps: Any) -> None:
        """Sum, finish and store this group's halves of a tile, if it has any."""
        run = functools.partial(self.multiply_halves, shared, tile, first, steps, self.teams.count)
        self.teams.if_ours(tile.team, run)

    def multiply_halves(
        self, shared: _Shared, tile: _Tile, first: Any, steps: Any, halves: int
    ) -> None:
        """Sum, finish and store halves; the last ones only if the expert has rows there."""
        if not halves:
            shared.ring.leave(first, steps, tile.team)
            return
        size = self.own().size, self.block.outputs
        low, high = self.bounds(tile, halves - 1)

        def run(*sums: Sequence[Ref]) -> None:
            self.begin_beside(shared, tile, _Piece(0, 0))
            product = functools.partial(self.product, sums)
            shared.ring.multiply(first, steps, tile.team, halves * self.at_a_time, product)
            self.finish_halves(shared, tile, [[total[...] for total in half] for half in sums])

        @pl.when(low < high)
        def _run() -> None:
            pl.run_scoped(run, *[[plgpu.ACC(size, jnp.float32)] * self.at_a_time] * halves)

        @pl.when(low >= high)
        def _fewer() -> None:
            self.multiply_halves(shared, tile, first, steps, halves - 1)

    def bounds(self, tile: _Tile, half: int) -> tuple[Any, Any]:
        """Which rows of a half are the expert's: from where on, and where they end."""
        rows = self.teams.half(self.own(), half)
        first = tile.first + rows.start
        low, high = (jnp.clip(row - first, 0, rows.size) for row in (tile.start, tile.end))
        return low, high

    def product(self, sums: Sequence[Sequence[Ref]], _: Any, operand: Ref, *weights: Ref) -> None:
        """Multiply what has been copied, this group's halves of the rows."""
        own = self.own()
        for half, totals in enumerate(sums):
            rows = operand.at[self.teams.half(own, half)]
            for total, weight in zip(totals, weights, strict=True):
                plgpu.wgmma(total, rows, turned(weight) if self.transposed else weight)

    def begin_beside(self, shared: _Shared, tile: _Tile, piece: _Piece) -> None:
        """Begin to copy what a piece is finished with."""
        own, arrived = self.own(), jax.lax.axis_index(GROUP_AXIS)
        if self.arrays.beside:
            # All threads have read what was there before.
            plgpu.commit_smem()
        first = pl.multiple_of(tile.first, ALIGNMENT) + self.teams.half(own, piece.half).start
        columns = pl.ds(tile.column * self.block.outputs + piece.begin, FINISHED)
        for i, ref in enumerate(self.arrays.beside):
            window, place = ref.at[pl.ds(first, own.size), columns], shared.beside.at[i, own]
            plgpu.copy_gmem_to_smem(window, place, shared.arrived.at[arrived])

    def finish_halves(
        self,
        shared: _Shared,
        tile: _Tile,
        sums: Sequence[Sequence[Float[Array, "rows outputs"]]],
    ) -> None:
        """Finish and store this group's halves, whose sums these are, piece after piece."""
        results, begins = len(self.arrays.results), range(0, self.block.outputs, FINISHED)
        pieces = [_Piece(half, begin) for half in range(len(sums)) for begin in begins]
        shared.stores.begin(len(begins) * results)
        for i, piece in enumerate(pieces):
            sides = self.read_beside(shared)
            if i + 1 < len(pieces):
                self.begin_beside(shared, tile, pieces[i + 1])
            some = [total[:, piece.begin : piece.begin + FINISHED] for total in sums[piece.half]]
            self.store(shared.stores, i * results, tile, piece, self.finish(*some, *sides))

    def read_beside(self, shared: _Shared) -> list[Float[Array, "rows some"]]:
        """What has been copied to finish a piece with, once it is there."""
        if shared.beside is None:
            return []
        plgpu.barrier_wait(shared.arrived.at[jax.lax.axis_index(GROUP_AXIS)])
        own = self.own()
        both = [shared.beside[i, own] for i in range(shared.beside.shape[0])]
        return [side.astype(jnp.float32) for side in both]

    def store(
        self,
        stores: Stores,
        turn: int,
        tile: _Tile,
        piece: _Piece,
        finished: Sequence[Float[Array, "rows some"]],
    ) -> None:
        """Store the expert's own rows of a finished piece, from a turn of `stores` on."""
        own = self.own()
        first = pl.multiple_of(tile.first, ALIGNMENT) + self.teams.half(own, piece.half).start
        low, high = self.bounds(tile, piece.half)
        columns = pl.ds(tile.column * self.block.outputs + piece.begin, FINISHED)
        windows = [result.at[:, columns] for result in self.arrays.results]
        count = high - low
        each = list(zip(range(turn, turn + len(windows)), finished, windows, strict=True))

        @pl.when(count == own.size)
        def _whole() -> None:
            for turn, some, window in each:
                stores.store(turn, own, some, window.at[pl.ds(first, own.size)])

        @pl.when(count < own.size)
        def _rows() -> None:
            for turn, some, window in each:
                stores.store_rows(turn, own, some, window, low, first + low, count)
