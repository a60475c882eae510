"""The TPU kernel of weight gradients: sums over each expert's rows of outer products.

A program adds what one tile of rows gives to a block of one expert's gradient. Where all rows of a
tile are the expert's, that is one product; where not, one for each strip with rows of it.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Bool, Float, Int

from cartesian_moe_jax.kernels.mosaic_call import Blocks, Ref, Strip, Visit, call, dot, each_strip
from cartesian_moe_jax.kernels.row_visits import RowVisits
from cartesian_moe_jax.kernels.tpu_tiles import STRIP, WeightGradient, strip_width, weights_tile


def call_to_weights(
    rows: Float[Array, "rows inputs"],
    d_outputs: Float[Array, "rows outputs"],
    group_sizes: Int[Array, "experts"],
    dtype: jnp.dtype,
) -> Float[Array, "experts inputs outputs"]:
    """The gradient of each expert's weights, rounded once to `dtype`; zeros without rows."""
    (count, inputs), outputs, experts = rows.shape, d_outputs.shape[1], group_sizes.shape[0]
    tile = weights_tile(
        WeightGradient(count, experts, inputs, outputs, rows.dtype.itemsize, dtype.itemsize)
    )
    visits, needed = RowVisits.by_expert(group_sizes, count, tile.rows)
    result = jax.ShapeDtypeStruct((experts, inputs, outputs), dtype)
    (total,) = call(
        _kernel,
        "grouped_to_weights",
        (inputs // tile.inputs, outputs // tile.outputs, needed),
        visits,
        (
            Blocks((tile.rows, tile.inputs), lambda i, j, v, visits: (visits.read[v], i), [rows]),
            Blocks(
                (tile.rows, tile.outputs),
                lambda i, j, v, visits: (visits.read[v], j),
                [d_outputs],
            ),
        ),
        Blocks(
            (None, tile.inputs, tile.outputs),
            lambda i, j, v, visits: (visits.expert[v], i, j),
            [result],
        ),
        [(tile.inputs, tile.outputs)],
        2 * count * inputs * outputs,
    )
    return total


def _kernel(
    visits: RowVisits, rows: list[Ref], d_outputs: list[Ref], result: Ref, total: Ref
) -> None:
    (rows,), (d_outputs,) = rows, d_outputs
    index, (height, width) = pl.program_id(2), d_outputs.shape
    visit, expert = Visit.of(visits, index, height), visits.expert[index]
    each_column, is_empty = each_strip(width, strip_width(width)), visit.start == visit.end

    def add(strip: Strip, columns: Strip, own: Bool[Array, "strip 1"] | None) -> None:
        # Nothing is there before the expert's first row.
        begins = visit.first_row + strip.start <= visit.start
        before = jnp.where(begins, 0, total[:, columns])
        operands = _masked(rows[strip, :], own), _masked(d_outputs[strip, columns], own)
        total[:, columns] = before + dot(*operands, 0, 0)

    @pl.when(is_empty)
    def _clear() -> None:
        result[...] = jnp.zeros(result.shape, result.dtype)

    @pl.when(visit.is_whole)
    def _add() -> None:
        each_column(lambda columns: add(pl.ds(0, height), columns, None))

    @pl.when(jnp.logical_not(jnp.logical_or(visit.is_whole, is_empty)))
    def _add_own() -> None:
        @each_strip(height, STRIP)
        def _rows(strip: Strip) -> None:
            @pl.when(visit.reaches(strip))
            def _run() -> None:
                each_column(lambda columns: add(strip, columns, visit.own(strip)))

    last = index == pl.num_programs(2) - 1
    other = visits.expert[jnp.minimum(index + 1, visits.expert.shape[0] - 1)] != expert

    @pl.when(jnp.logical_and(jnp.logical_or(last, other), jnp.logical_not(is_empty)))
    def _write() -> None:
        result[...] = total[...].astype(result.dtype)


def _masked(
    rows: Float[Array, "strip width"], own: Bool[Array, "strip 1"] | None
) -> Float[Array, "strip width"]:
    """The rows that are its own, and zeros for the others. None: all are."""
    if own is None:
        return rows
    # In float32: not all chips choose between narrower numbers.
    return jnp.where(own, rows.astype(jnp.float32), 0).astype(rows.dtype)
