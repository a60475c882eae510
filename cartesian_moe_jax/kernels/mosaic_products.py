"""The TPU kernel whose results are rows: rows times their experts' weights, finished.

A program computes one tile of results for one of the experts that have rows in it, or a part of
the sum for it. Where all rows of a tile are one expert's, it is one product; where not, only
strips with rows of the expert are computed. Strips of columns are finished while the next are
multiplied.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Bool, Float, Int

from cartesian_moe_jax.kernels.composed import Finish, as_they_are
from cartesian_moe_jax.kernels.mosaic_call import Blocks, Ref, Strip, Visit, call, dot, each_strip
from cartesian_moe_jax.kernels.product_call import number_of_sums
from cartesian_moe_jax.kernels.row_visits import RowVisits
from cartesian_moe_jax.kernels.tpu_tiles import STRIP, Product, Tile, product_tile, strip_width


def call_products(
    operands: Sequence[Float[Array, "rows summed"]],
    weights: Sequence[Float[Array, "experts ..."]],
    group_sizes: Int[Array, "experts"],
    beside: Sequence[Float[Array, "rows outputs"]],
    results: int,
    finish: Finish,
    transposed: bool,
) -> tuple[Float[Array, "rows outputs"], ...]:
    """A ProductKernel, of widths that can be cut; it is told how many `results` there are.

    What is finished `as_they_are` has zeros in rows of no expert; else such rows are left as they
    come. Results take the memory of `beside` but for the first, if there are as many.
    """
    shape = _shape(operands, weights, beside, results, transposed)
    tile = product_tile(shape)
    steps = shape.summed // tile.inputs
    visits, count = RowVisits.by_tile(
        group_sizes, shape.rows, tile.rows, every_tile=finish is as_they_are
    )
    result = jax.ShapeDtypeStruct((shape.rows, shape.outputs), operands[0].dtype)
    first = len(operands) + len(weights)
    across, along = (tile.rows, tile.inputs), (tile.rows, tile.outputs)
    return call(
        functools.partial(_kernel, finish=finish, transposed=transposed, steps=steps),
        "grouped_to_rows" if transposed else "grouped_forward",
        (shape.outputs // tile.outputs, count, steps),
        visits,
        (
            Blocks(across, lambda column, v, step, visits: (visits.read[v], step), operands),
            _weight_blocks(weights, tile, transposed),
            Blocks(along, lambda column, v, step, visits: (visits.read[v], column), beside),
        ),
        Blocks(
            along,
            lambda column, v, step, visits: (visits.tile[v], column),
            [result] * shape.results,
        ),
        [along] * (shape.sums if steps > 1 else 0),
        2 * shape.rows * shape.summed * shape.outputs * shape.weights,
        {first + i: 1 + i for i in range(len(beside)) if shape.results == 1 + len(beside)},
    )


def _shape(
    operands: Sequence[Float[Array, "rows summed"]],
    weights: Sequence[Float[Array, "experts ..."]],
    beside: Sequence[Float[Array, "rows outputs"]],
    results: int,
    transposed: bool,
) -> Product:
    rows, summed = operands[0].shape
    experts, outputs = weights[0].shape[0], weights[0].shape[1 if transposed else 2]
    return Product(
        rows=rows,
        experts=experts,
        summed=summed,
        outputs=outputs,
        operands=len(operands),
        weights=len(weights),
        sums=number_of_sums(operands, weights),
        beside=len(beside),
        results=results,
        element=operands[0].dtype.itemsize,
    )


def _weight_blocks(
    weights: Sequence[Float[Array, "experts ..."]], tile: Tile, transposed: bool
) -> Blocks:
    if transposed:
        return Blocks(
            (None, tile.outputs, tile.inputs),
            lambda column, v, step, visits: (visits.expert[v], column, step),
            weights,
        )
    return Blocks(
        (None, tile.inputs, tile.outputs),
        lambda column, v, step, visits: (visits.expert[v], step, column),
        weights,
    )


class _Sums(NamedTuple):
    """The products of a tile, summed as far as this step of the sum."""

    operands: Sequence[Ref]
    weights: Sequence[Ref]
    totals: Sequence[Ref]
    """Of the steps before, or nothing if there is but one step."""
    step: Int[Array, ""]
    transposed: bool

    def of(self, rows: Strip, columns: Strip) -> list[Float[Array, "strip width"]]:
        """In these rows and columns of the tile."""
        found: list[Any] = [None] * number_of_sums(self.operands, self.weights)
        for i, weight in enumerate(self.weights):
            operand, at = self.operands[min(i, len(self.operands) - 1)], min(i, len(found) - 1)
            part = weight[columns, :] if self.transposed else weight[:, columns]
            product = dot(operand[rows, :], part, 1, 1 if self.transposed else 0)
            found[at] = product if found[at] is None else found[at] + product
        for i, total in enumerate(self.totals):
            found[i] += jnp.where(self.step == 0, 0, total[rows, columns])
        return found


def _kernel(
    visits: RowVisits,
    operands: Sequence[Ref],
    weights: Sequence[Ref],
    beside: Sequence[Ref],
    *out: Ref,
    finish: Finish,
    transposed: bool,
    steps: int,
) -> None:
    split = len(out) - (number_of_sums(operands, weights) if steps > 1 else 0)
    results, totals = out[:split], out[split:]
    (height, width), index, step = results[0].shape, pl.program_id(1), pl.program_id(2)
    visit, is_last = Visit.of(visits, index, height), step == steps - 1
    sums = _Sums(operands, weights, totals, step, transposed)
    whole, each_column = pl.ds(0, height), each_strip(width, strip_width(width))

    def finished(rows: Strip, columns: Strip) -> Sequence[Float[Array, "strip width"]]:
        sides = [ref[rows, columns].astype(jnp.float32) for ref in beside]
        return finish(*sums.of(rows, columns), *sides)

    if steps > 1:

        @pl.when(jnp.logical_and(visit.start < visit.end, jnp.logical_not(is_last)))
        def _add() -> None:
            @each_column
            def _strip(columns: Strip) -> None:
                for total, value in zip(totals, sums.of(whole, columns), strict=True):
                    total[:, columns] = value

    @pl.when(jnp.logical_and(is_last, visit.is_whole))
    def _write() -> None:
        @each_column
        def _strip(columns: Strip) -> None:
            for ref, value in zip(results, finished(whole, columns), strict=True):
                ref[:, columns] = value.astype(ref.dtype)

    @pl.when(jnp.logical_and(is_last, jnp.logical_not(visit.is_whole)))
    def _write_own() -> None:
        if finish is as_they_are:

            @pl.when(_is_first_of_tile(visits, index))
            def _clear() -> None:
                for ref in results:
                    ref[...] = jnp.zeros(ref.shape, ref.dtype)

        @each_strip(height, STRIP)
        def _rows(rows: Strip) -> None:
            @pl.when(visit.reaches(rows))
            def _run() -> None:
                @each_column
                def _strip(columns: Strip) -> None:
                    for ref, value in zip(results, finished(rows, columns), strict=True):
                        _write_where(visit.own(rows), ref, rows, columns, value)


def _is_first_of_tile(visits: RowVisits, index: Int[Array, ""]) -> Bool[Array, ""]:
    before = visits.tile[jnp.maximum(index - 1, 0)]
    return jnp.logical_or(index == 0, before != visits.tile[index])


def _write_where(
    own: Bool[Array, "strip 1"],
    ref: Ref,
    rows: Strip,
    columns: Strip,
    value: Float[Array, "strip width"],
) -> None:
    # In float32: not all chips choose between narrower numbers.
    there = ref[rows, columns].astype(jnp.float32)
    ref[rows, columns] = jnp.where(own, value, there).astype(ref.dtype)
