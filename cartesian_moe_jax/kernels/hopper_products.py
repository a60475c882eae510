"""The Hopper kernel whose results are rows: rows times their experts' weights, finished.

On every multiprocessor one group of warps copies blocks into shared memory, and two multiply them,
each half of a tile's rows. What they have summed they finish, some columns at a time, and store;
of a tile's rows only the expert's own.
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
from cartesian_moe_jax.kernels.in_kernels import in_hopper_forms
from cartesian_moe_jax.kernels.product_call import Like, number_of_sums


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
        _Program(tiles, arrays, in_hopper_forms(finish), transposed, block).run()

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
        weight = (block.inputs, block.outputs)
        weights = [weight[::-1] if self.transposed else weight] * self.at_a_time
        sizes = [(block.rows, block.inputs), *weights]

        @functools.partial(
            pl.run_scoped,
            ring=Ring.allocations(sizes, dtype, block.stages),
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

        def tile_at(row: Any, column: Any) -> _Tile:
            expert, first, start, end = (ref[row] for ref in self.tiles)
            return _Tile(expert, first, start, end, column)

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
        ring.copy(begin + step, windows)

    def columns(self, tile: _Tile) -> Any:
        """The results' columns that a tile has."""
        return pl.ds(tile.column * self.block.outputs, self.block.outputs)

    def own_rows(self) -> Any:
        """This group's half of a tile's rows."""
        half = self.block.rows // GROUPS
        return pl.ds(jax.lax.axis_index(GROUP_AXIS) * half, half)

    def multiply(self, shared: _Shared, tile: _Tile, first: Any, steps: Any) -> None:
        """Sum, finish and store this group's rows of a tile, if there are any."""
        arrays, own = self.arrays, self.own_rows()
        size = own.size, self.block.outputs
        count = number_of_sums(arrays.operands, arrays.weights)
        low, high = self.bounds(tile)

        def run(*sums: Ref) -> None:
            self.begin_beside(shared, tile, 0)
            product = functools.partial(self.product, sums)
            shared.ring.multiply(first, steps, self.at_a_time, product)
            self.finish_tile(shared, tile, [total[...] for total in sums])

        @pl.when(low < high)
        def _run() -> None:
            pl.run_scoped(run, *[plgpu.ACC(size, jnp.float32)] * count)

        @pl.when(low >= high)
        def _leave() -> None:
            shared.ring.leave(first, steps)

    def bounds(self, tile: _Tile) -> tuple[Any, Any]:
        """Which of this group's rows are the expert's: from where on, and where they end."""
        own = self.own_rows()
        first = tile.first + own.start
        low, high = (jnp.clip(row - first, 0, own.size) for row in (tile.start, tile.end))
        return low, high

    def product(self, sums: Sequence[Ref], _: Any, operand: Ref, *weights: Ref) -> None:
        """Multiply what has been copied, this group's half of the rows."""
        own = operand.at[self.own_rows()]
        for total, weight in zip(sums, weights, strict=True):
            plgpu.wgmma(total, own, turned(weight) if self.transposed else weight)

    def begin_beside(self, shared: _Shared, tile: _Tile, begin: int) -> None:
        """Begin to copy what some columns of this group's rows are finished with."""
        own, arrived = self.own_rows(), jax.lax.axis_index(GROUP_AXIS)
        if self.arrays.beside:
            # All threads have read what was there before.
            plgpu.commit_smem()
        rows = pl.ds(pl.multiple_of(tile.first, ALIGNMENT) + own.start, own.size)
        columns = pl.ds(tile.column * self.block.outputs + begin, FINISHED)
        for i, ref in enumerate(self.arrays.beside):
            place = shared.beside.at[i, own]
            plgpu.copy_gmem_to_smem(ref.at[rows, columns], place, shared.arrived.at[arrived])

    def finish_tile(
        self, shared: _Shared, tile: _Tile, sums: Sequence[Float[Array, "rows outputs"]]
    ) -> None:
        """Finish and store this group's rows, some columns at a time."""
        for begin in range(0, self.block.outputs, FINISHED):
            sides = self.read_beside(shared)
            if begin + FINISHED < self.block.outputs:
                self.begin_beside(shared, tile, begin + FINISHED)
            parts = self.finish(*[total[:, begin : begin + FINISHED] for total in sums], *sides)
            self.store(shared.stores, tile, begin, parts)

    def read_beside(self, shared: _Shared) -> list[Float[Array, "rows some"]]:
        """What has been copied to finish some columns with, once it is there."""
        if shared.beside is None:
            return []
        plgpu.barrier_wait(shared.arrived.at[jax.lax.axis_index(GROUP_AXIS)])
        own = self.own_rows()
        both = [shared.beside[i, own] for i in range(shared.beside.shape[0])]
        return [side.astype(jnp.float32) for side in both]

    def store(
        self, stores: Stores, tile: _Tile, begin: int, parts: Sequence[Float[Array, "rows some"]]
    ) -> None:
        """Store the expert's own rows of some finished columns."""
        own = self.own_rows()
        first = pl.multiple_of(tile.first, ALIGNMENT) + own.start
        low, high = self.bounds(tile)
        columns = pl.ds(tile.column * self.block.outputs + begin, FINISHED)
        windows = [result.at[:, columns] for result in self.arrays.results]
        count = high - low

        turns = range(begin // FINISHED * len(parts), self.block.outputs)

        @pl.when(count == own.size)
        def _whole() -> None:
            for turn, part, window in zip(turns, parts, windows, strict=False):
                stores.store(turn, own, part, window.at[pl.ds(first, own.size)])

        @pl.when(count < own.size)
        def _rows() -> None:
            for turn, part, window in zip(turns, parts, windows, strict=False):
                stores.store_rows(turn, own, part, window, low, first + low, count)
