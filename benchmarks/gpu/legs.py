"""How fast is each leg of grouped matmuls, by every choice: the timings that choices are read from.

Beside each leg stands its dense twin, the same product of as many rows with one weight, and where
that was asked for `ragged_dot`, which XLA expands to `experts` times the operations on GPU.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from benchmarks.gpu import clock
from benchmarks.gpu.context import Context
from cartesian_moe_jax.kernels import timings as kept
from cartesian_moe_jax.kernels.blocks import LegShape
from cartesian_moe_jax.kernels.by_leg import CANDIDATES, available
from cartesian_moe_jax.kernels.composed import GroupedMatmul, forward_by, to_rows_by
from cartesian_moe_jax.kernels.leg_trials import (
    SERIES,
    feed_forward_legs,
    operands,
    operations,
    run_of,
)
from cartesian_moe_jax.kernels.ragged import RAGGED
from cartesian_moe_jax.kernels.timings import Timing
from cartesian_moe_jax.kernels.tuning import Failure, described, measure, merged
from cartesian_moe_jax.paths import write_atomically
from cartesian_moe_jax.platform import device_kind


def _multiply(
    rows: Float[Array, "rows ..."],
    weights: Float[Array, "experts ..."],
    group_sizes: Int[Array, "experts"],
    transposed: bool,
) -> Float[Array, "rows ..."]:
    return rows @ (weights[0].T if transposed else weights[0])


def _to_weights(
    rows: Float[Array, "rows inputs"],
    d_outputs: Float[Array, "rows outputs"],
    group_sizes: Int[Array, "experts"],
    dtype: DTypeLike,
) -> Float[Array, "experts inputs outputs"]:
    return jnp.matmul(rows.T, d_outputs, preferred_element_type=dtype)[None]


DENSE = GroupedMatmul(forward_by(_multiply), to_rows_by(_multiply), _to_weights)
"""The dense twin: all rows with the first expert's weights."""


FIRST = 3
"""Sizes that are measured before anything is timed that XLA expands: those of the other parts."""


def run(context: Context) -> None:
    """Measure every leg that is not yet in the record."""
    sizes = context.sizes
    first, every = (list(_legs(grid, sizes.dtype)) for grid in (sizes.legs[:FIRST], sizes.legs))
    tuned = _Tuned(context)
    for shape in first:
        tuned.measure(shape)
    for shape in _legs(sizes.ragged_legs, sizes.dtype):
        _expand(context, shape)
    for shape in every:
        tuned.measure(shape)
    if "tokamax_triton" not in available():
        context.record.note("tokamax is not installed: its kernels are not measured")


class _Tuned:
    """The timings that choices are read from, in the user's file and in the folder."""

    def __init__(self, context: Context):
        self.context = context
        own, here = kept.users_file(device_kind()), context.folder / kept.file_name(device_kind())
        own.parent.mkdir(parents=True, exist_ok=True)
        self.files = own, here
        # Only what is in the record too: what lies there may be of other kernels.
        self.known = set(_known(context))
        old = kept.read(here) if here.is_file() else ()
        self.found = [timing for timing in old if timing.shape in self.known]
        self._keep()
        self.dense = functools.cache(functools.partial(_by, context, DENSE))
        self.noted: set[str] = set()

    def measure(self, shape: LegShape) -> None:
        """Measure all choices of a leg and its dense twin, unless that was done."""
        if shape in self.known:
            return
        new, failures = measure(shape, available())
        self.found += new
        self._keep()
        for failure in failures:
            self.note(failure)
        self.context.record.add(**shape._asdict(), **_best(self.context, shape, new))
        self.context.record.extend(**_prefixed("dense", self.dense(shape._replace(experts=1))))
        self.known.add(shape)

    def _keep(self) -> None:
        for file in self.files:
            write_atomically(file, kept.as_json(merged((), self.found)))

    def note(self, failure: Failure) -> None:
        """Keep a line about what failed, once."""
        line, shape = failure.line(), " ".join(map(str, failure.shape))
        if line not in self.noted:
            self.context.record.note(f"{line}, at {shape} and maybe others")
        self.noted.add(line)


def _known(context: Context) -> list[LegShape]:
    measurements = context.record.measurements
    return [LegShape(*(m[field] for field in LegShape._fields)) for m in measurements]


def _expand(context: Context, shape: LegShape) -> None:
    """Time `ragged_dot` for a leg that has been measured, unless that was tried."""
    index = _known(context).index(shape)
    measurement = context.record.measurements[index]
    if any(name.startswith("ragged_") for name in measurement):
        return
    # Should its memory end this process, it is not tried again.
    context.record.extend(index, ragged_none="it ended the process")
    found = _by(context, RAGGED, shape)
    del measurement["ragged_none"]
    context.record.extend(index, **_prefixed("ragged", found))


def _legs(grid: Any, dtype: str) -> Iterator[LegShape]:
    for experts in grid:
        yield from feed_forward_legs(*experts, dtype)


def _best(context: Context, shape: LegShape, found: list[Timing]) -> dict[str, Any]:
    """The fastest, and the fastest of our own kernels."""
    ours = [timing for timing in found if timing.choice.backend in CANDIDATES]
    if not found:
        return {"fastest": "none works: see the notes"}
    best = min(found, key=lambda timing: timing.ms)
    rates = context.rate_of_leg(shape, best.ms)
    own = {"ours_ms": min(timing.ms for timing in ours)} if ours else {}
    return {"fastest": described(best.choice), "ms": best.ms, **rates, **own}


def _by(context: Context, matmul: GroupedMatmul, shape: LegShape) -> dict[str, Any]:
    """How long another way takes, or why it cannot be had."""
    try:
        arguments = operands(shape)
    except jax.errors.JaxRuntimeError as error:
        return {"none": str(error).splitlines()[0]}
    done = clock.measure(SERIES, run_of(shape, matmul), *arguments)
    if isinstance(done, str):
        return {"none": done}
    return {"ms": done, "tflops": operations(shape) / done / 1e9}


def _prefixed(name: str, values: dict[str, Any]) -> dict[str, Any]:
    return {f"{name}_{key}": value for key, value in values.items()}
