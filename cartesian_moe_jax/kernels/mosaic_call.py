"""What the TPU kernels have in common: how they are called, their visits, strips and products."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float, Int

from cartesian_moe_jax.kernels.row_visits import RowVisits
from cartesian_moe_jax.kernels.tpu_tiles import STRIP, on_chip
from cartesian_moe_jax.platform import target_platform

Ref = Any
"""An array on chip, as a kernel sees it; jax has no public name for its type."""
Strip = Any
"""A `pl.ds`: neighbouring rows or columns of such an array."""


class Visit(NamedTuple):
    """The rows that a program has to do with: of one expert in one tile. See RowVisits."""

    start: Int[Array, ""]
    end: Int[Array, ""]
    first_row: Int[Array, ""]
    """Of the tile."""
    is_whole: Bool[Array, ""]
    """Whether all rows of the tile are the expert's."""

    @classmethod
    def of(cls, visits: RowVisits, index: Int[Array, ""], height: int) -> "Visit":
        """The visit of this number, read from the arrays of `visits` on chip."""
        start, end, first = visits.start[index], visits.end[index], visits.tile[index] * height
        whole = jnp.logical_and(start <= first, first + height <= end)
        return cls(start, end, first, whole)

    def reaches(self, strip: Strip) -> Bool[Array, ""]:
        """Whether the expert has rows in this strip of the tile."""
        first = self.first_row + strip.start
        return jnp.logical_and(self.start < first + STRIP, first < self.end)

    def own(self, strip: Strip) -> Bool[Array, "strip 1"]:
        """Which rows of the strip those are."""
        row = self.first_row + strip.start + jax.lax.broadcasted_iota(jnp.int32, (STRIP, 1), 0)
        return jnp.logical_and(self.start <= row, row < self.end)


def each_strip(size: int, width: int) -> Callable[[Callable[[Strip], None]], None]:
    """A decorator that runs a function for each of the equal strips which `size` is cut into."""

    def run(function: Callable[[Strip], None]) -> None:
        if size == width:
            function(pl.ds(0, size))
        else:
            pl.loop(0, size // width)(
                lambda index: function(pl.ds(pl.multiple_of(index * width, width), width))
            )

    return run


def dot(
    a: Float[Array, "..."], b: Float[Array, "..."], over_a: int, over_b: int
) -> Float[Array, "..."]:
    """The product that sums over these axes, in float32."""
    axes = ((over_a,), (over_b,)), ((), ())
    return jax.lax.dot_general(a, b, axes, preferred_element_type=jnp.float32)


class Blocks(NamedTuple):
    """Arrays of one shape, and which block of them a program gets."""

    shape: tuple[int | None, ...]
    """Of the block; None for an axis that it has not."""
    at: Callable[..., tuple[Any, ...]]
    """at(*place, visits), where it lies, counted in blocks."""
    arrays: Sequence[Any]
    """Or their shapes and dtypes, where they are results."""

    @property
    def specs(self) -> list[pl.BlockSpec]:
        """What Pallas makes of that."""
        spec = pl.BlockSpec(self.shape, lambda i, j, k, *refs: self.at(i, j, k, RowVisits(*refs)))
        return [spec] * len(self.arrays)


def call(
    kernel: Callable[..., None],
    name: str,
    grid: tuple[int | Int[Array, ""], ...],
    visits: RowVisits,
    operands: Sequence[Blocks],
    results: Blocks,
    totals: Sequence[tuple[int, int]],
    operations: int,
    over: Mapping[int, int] = MappingProxyType({}),
) -> tuple[Float[Array, "..."], ...]:
    """kernel(visits, *operands, *results, *totals) for each place of a grid of three axes.

    Operands come as lists of what is on chip; the cores share the grid's first axis. `totals` are
    the shapes of what stays on chip from place to place, in float32. `over` says
    which operand's memory a result takes, counted in arrays. `operations` are those of the
    products.
    """
    arrays = [list(blocks.arrays) for blocks in operands]
    moved = sum(a.size * a.dtype.itemsize for a in jax.tree.leaves((arrays, results.arrays)))
    scalars = len(visits)
    run = pl.pallas_call(
        lambda *refs: kernel(RowVisits(*refs[:scalars]), *refs[scalars:]),
        out_shape=list(results.arrays),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=scalars,
            grid=grid,
            in_specs=[blocks.specs for blocks in operands],
            out_specs=results.specs,
            scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in totals],
        ),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary", "arbitrary"),
            vmem_limit_bytes=on_chip() * 3 // 4,
        ),
        cost_estimate=pl.CostEstimate(flops=operations, bytes_accessed=moved, transcendentals=0),
        input_output_aliases={scalars + operand: result for operand, result in over.items()},
        interpret=interpret(),
        name=name,
    )
    return tuple(run(*visits, *arrays))


def interpret() -> bool:
    """Whether kernels are interpreted, since programs are not compiled for TPU."""
    return target_platform() != "tpu"
