"""Grouped matmuls for GPUs: three Pallas kernels, compiled by Triton; nothing is expanded.

Forward and to the rows, a program computes one tile of results: some rows of one expert by a
block of columns. To the weights, it computes a block of one expert's gradient, in a loop over
that expert's rows. All accumulate in float32 and write each result once.

Where programs are not compiled for GPU, the kernels are interpreted: slowly, for tests.
"""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pltriton
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Num

from cartesian_moe_jax.kernels.blocks import Block, filled
from cartesian_moe_jax.kernels.composed import (
    Finish,
    GroupedMatmul,
    as_they_are,
    finished,
)
from cartesian_moe_jax.kernels.in_kernels import in_kernels
from cartesian_moe_jax.kernels.opaque_call import opaque_call
from cartesian_moe_jax.kernels.row_tiles import RowTiles
from cartesian_moe_jax.platform import target_platform

Ref = Any
"""An array in the GPU's memory, as a kernel sees it; jax has no public name for its type."""


def triton_matmul(block: Block, in_place: bool = True) -> GroupedMatmul:
    """The grouped matmul in blocks of one size, which must suit the leg that is used.

    With `in_place` the activation's gradients take the memory of what they are the gradients of.
    Where that is needed afterwards, as it is by whoever runs a leg twice, XLA copies it before.
    """
    return GroupedMatmul(
        functools.partial(_forward, block),
        functools.partial(_to_rows, block, in_place),
        functools.partial(_to_weights, block),
    )


def _forward(
    block: Block,
    rows: Float[Array, "rows inputs"],
    weights: tuple[Float[Array, "experts inputs outputs"], ...],
    group_sizes: Int[Array, "experts"],
    finish: Finish,
) -> tuple[Float[Array, "rows outputs"], ...]:
    if not in_kernels(finish, len(weights)):
        products = _forward(block, rows, weights, group_sizes, as_they_are)
        return finished(finish, products, rows.dtype)
    results = _results(finish, len(weights), rows.shape[0], weights[0].shape[2], rows.dtype)
    operands = rows, group_sizes, *weights
    return opaque_call(_run_forward, results, *operands, finish=finish, block=block)


def _run_forward(
    rows: Float[Array, "rows inputs"],
    group_sizes: Int[Array, "experts"],
    *weights: Float[Array, "experts inputs outputs"],
    finish: Finish,
    block: Block,
) -> tuple[Float[Array, "rows outputs"], ...]:
    outputs = weights[0].shape[2]
    rows, *weights = _fill(rows, *weights)
    count, width = rows.shape[0], weights[0].shape[2]
    tiles = RowTiles.of(group_sizes, count, block.rows)
    kernel = functools.partial(_forward_kernel, finish=finish, block=block)
    results = _results(finish, len(weights), count, width, rows.dtype)
    programs = tiles.start.shape[0] * (width // block.outputs)
    operands = tiles, rows, tuple(weights)
    done = _call(kernel, "grouped_forward", results, programs, block, *operands)
    return tuple(result[:, :outputs] for result in done)


def _forward_kernel(
    tiles: RowTiles,
    rows: Ref,
    weights: tuple[Ref, ...],
    *results: Ref,
    finish: Finish,
    block: Block,
) -> None:
    tile, column = _position(results[0].shape[1] // block.outputs)
    expert, start, end = (ref[tile] for ref in tiles)
    at_rows, at_outputs = pl.ds(start, block.rows), pl.ds(column * block.outputs, block.outputs)

    @pl.when(start < end)
    def _run() -> None:
        own = _own(start, end, block.rows)

        def add(step: Int[Array, ""], products: list[Any]) -> list[Any]:
            at_inputs = pl.ds(step * block.inputs, block.inputs)
            part = _load(rows.at[at_rows, at_inputs], own)
            return [
                product + _dot(part, weight[expert, at_inputs, at_outputs])
                for product, weight in zip(products, weights, strict=True)
            ]

        zeros = [jnp.zeros((block.rows, block.outputs), jnp.float32) for _ in weights]
        products = jax.lax.fori_loop(0, rows.shape[1] // block.inputs, add, zeros)
        for result, value in zip(results, finish(*products), strict=True):
            _store(result.at[at_rows, at_outputs], value, own)


def _to_rows(
    block: Block,
    in_place: bool,
    d_outputs: tuple[Float[Array, "rows outputs"], ...],
    weights: tuple[Float[Array, "experts inputs outputs"], ...],
    group_sizes: Int[Array, "experts"],
    finish: Finish,
    *beside: Float[Array, "rows inputs"],
) -> tuple[Float[Array, "rows inputs"], ...]:
    rows, inputs, dtype = d_outputs[0].shape[0], weights[0].shape[1], d_outputs[0].dtype
    if not in_kernels(finish, 1 + len(beside)):
        product = _to_rows(block, in_place, d_outputs, weights, group_sizes, as_they_are)
        return finished(finish, (*product, *beside), dtype)
    results = _results(finish, 1 + len(beside), rows, inputs, dtype)
    operands = *d_outputs, group_sizes, *weights, *beside
    settings = {"products": len(weights), "finish": finish, "block": block}
    return opaque_call(_run_to_rows, results, *operands, in_place=in_place, **settings)


def _run_to_rows(
    *operands: Num[Array, "..."], products: int, finish: Finish, block: Block, in_place: bool
) -> tuple[Float[Array, "rows inputs"], ...]:
    group_sizes, inputs = operands[products], operands[products + 1].shape[1]
    d_outputs = tuple(_fill(*operands[:products]))
    filled = _fill(*operands[products + 1 :])
    weights, beside = tuple(filled[:products]), tuple(filled[products:])
    count, width = d_outputs[0].shape[0], weights[0].shape[1]
    tiles = RowTiles.of(group_sizes, count, block.rows)
    kernel = functools.partial(_to_rows_kernel, finish=finish, block=block)
    results = _results(finish, 1 + len(beside), count, width, d_outputs[0].dtype)
    programs = tiles.start.shape[0] * (width // block.inputs)
    operands = tiles, d_outputs, weights, beside
    # No other program reads what this one writes over.
    first = len(tiles) + 2 * products
    aliased = len(beside) if in_place and len(results) == 1 + len(beside) else 0
    over = {first + i: 1 + i for i in range(aliased)}
    done = _call(kernel, "grouped_to_rows", results, programs, block, *operands, over=over)
    return tuple(result[:, :inputs] for result in done)


def _to_rows_kernel(
    tiles: RowTiles,
    d_outputs: tuple[Ref, ...],
    weights: tuple[Ref, ...],
    beside: tuple[Ref, ...],
    *results: Ref,
    finish: Finish,
    block: Block,
) -> None:
    tile, column = _position(results[0].shape[1] // block.inputs)
    expert, start, end = (ref[tile] for ref in tiles)
    at_rows, at_inputs = pl.ds(start, block.rows), pl.ds(column * block.inputs, block.inputs)

    @pl.when(start < end)
    def _run() -> None:
        own = _own(start, end, block.rows)

        def add(d_output: Ref, weight: Ref, step: Int[Array, ""], product: Any) -> Any:
            at_outputs = pl.ds(step * block.outputs, block.outputs)
            part = _load(d_output.at[at_rows, at_outputs], own)
            return product + _dot(part, weight[expert, at_inputs, at_outputs], trans_b=True)

        product = jnp.zeros((block.rows, block.inputs), jnp.float32)
        steps = d_outputs[0].shape[1] // block.outputs
        # One after the other: within a step, two sums into one product would wait for each other.
        for d_output, weight in zip(d_outputs, weights, strict=True):
            run = functools.partial(add, d_output, weight)
            product = jax.lax.fori_loop(0, steps, run, product)
        sides = [_load(ref.at[at_rows, at_inputs], own).astype(jnp.float32) for ref in beside]
        for result, value in zip(results, finish(product, *sides), strict=True):
            _store(result.at[at_rows, at_inputs], value, own)


def _to_weights(
    block: Block,
    rows: Float[Array, "rows inputs"],
    d_outputs: Float[Array, "rows outputs"],
    group_sizes: Int[Array, "experts"],
    dtype: DTypeLike,
) -> Float[Array, "experts inputs outputs"]:
    shape = (group_sizes.shape[0], rows.shape[1], d_outputs.shape[1])
    results = (jax.ShapeDtypeStruct(shape, dtype),)
    operands = rows, d_outputs, group_sizes
    settings = {"dtype": jnp.dtype(dtype), "block": block}
    (sums,) = opaque_call(_run_to_weights, results, *operands, **settings)
    return sums


def _run_to_weights(
    rows: Float[Array, "rows inputs"],
    d_outputs: Float[Array, "rows outputs"],
    group_sizes: Int[Array, "experts"],
    dtype: jnp.dtype,
    block: Block,
) -> tuple[Float[Array, "experts inputs outputs"]]:
    inputs, outputs = rows.shape[1], d_outputs.shape[1]
    rows, d_outputs = _fill(rows, d_outputs)
    shape = (group_sizes.shape[0], rows.shape[1], d_outputs.shape[1])
    sizes = group_sizes.astype(jnp.int32)
    ends = jnp.cumsum(sizes)
    kernel = functools.partial(_to_weights_kernel, block=block)
    programs = shape[0] * (shape[1] // block.inputs) * (shape[2] // block.outputs)
    results = (jax.ShapeDtypeStruct(shape, dtype),)
    operands = ends - sizes, ends, rows, d_outputs
    (sums,) = _call(kernel, "grouped_to_weights", results, programs, block, *operands)
    return (sums[:, :inputs, :outputs],)


def _to_weights_kernel(
    starts: Ref, ends: Ref, rows: Ref, d_outputs: Ref, sums: Ref, *, block: Block
) -> None:
    rest, column = _position(sums.shape[2] // block.outputs)
    expert, line = _divide(rest, sums.shape[1] // block.inputs)
    start, end = starts[expert], ends[expert]
    at_inputs = pl.ds(line * block.inputs, block.inputs)
    at_outputs = pl.ds(column * block.outputs, block.outputs)

    def add(step: Int[Array, ""], total: Float[Array, "inputs outputs"]) -> Any:
        first = start + step * block.rows
        own, at_rows = _own(first, end, block.rows), pl.ds(first, block.rows)
        part = _load(rows.at[at_rows, at_inputs], own)
        return total + _dot(part, _load(d_outputs.at[at_rows, at_outputs], own), trans_a=True)

    zeros = jnp.zeros((block.inputs, block.outputs), jnp.float32)
    steps = (end - start + block.rows - 1) // block.rows
    total = jax.lax.fori_loop(0, steps, add, zeros)
    sums[expert, at_inputs, at_outputs] = total.astype(sums.dtype)


def _position(columns: int) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """What this program computes: neighbours read the same rows, which are then in the cache."""
    return _divide(pl.program_id(0), columns)


def _divide(number: Int[Array, ""], by: int) -> tuple[Int[Array, ""], Int[Array, ""]]:
    # Of what is not negative; jnp.divmod minds the sign.
    return jax.lax.div(number, by), jax.lax.rem(number, by)


def _own(start: Int[Array, ""], end: Int[Array, ""], height: int) -> Bool[Array, "height 1"]:
    return (start + jnp.arange(height) < end)[:, None]


def _load(window: Ref, own: Bool[Array, "height 1"]) -> Float[Array, "height width"]:
    """A window of an array, with zeros in place of the rows that are not its own."""
    return pltriton.load(window, mask=jnp.broadcast_to(own, window.shape), other=0)


def _store(window: Ref, value: Float[Array, "height width"], own: Bool[Array, "height 1"]) -> None:
    mask = jnp.broadcast_to(own, window.shape)
    pltriton.store(window, value.astype(window.dtype), mask=mask)


def _dot(a: Float[Array, "..."], b: Float[Array, "..."], **transposed: bool) -> Float[Array, "..."]:
    # The tensor cores would round float32 to ten bits.
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return pltriton.dot(a, b, precision=precision, **transposed)


def _fill(*arrays: Float[Array, "..."]) -> list[Float[Array, "..."]]:
    """Adds zeros until the widths, all but the first axis, are multiples of GRAIN."""
    return [
        jnp.pad(array, ((0, 0), *((0, filled(width) - width) for width in array.shape[1:])))
        for array in arrays
    ]


def _results(
    finish: Finish, arguments: int, rows: int, width: int, dtype: jnp.dtype
) -> tuple[jax.ShapeDtypeStruct, ...]:
    one = jax.ShapeDtypeStruct((rows, width), jnp.float32)
    finished = jax.eval_shape(finish, *[one] * arguments)
    return tuple(jax.ShapeDtypeStruct(each.shape, dtype) for each in finished)


def _call(
    kernel: Callable[..., None],
    name: str,
    results: tuple[jax.ShapeDtypeStruct, ...],
    programs: int,
    block: Block,
    *operands: Any,
    over: Mapping[int, int] = MappingProxyType({}),
) -> tuple[Float[Array, "..."], ...]:
    """Runs a kernel; `over` says which operand's memory a result takes, numbered as leaves."""
    call = pl.pallas_call(
        kernel,
        out_shape=results,
        grid=(programs,),
        compiler_params=pltriton.CompilerParams(num_warps=block.warps, num_stages=block.stages),
        interpret=target_platform() != "gpu",
        input_output_aliases=dict(over),
        name=name,
    )
    return call(*operands)
