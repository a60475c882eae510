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
from cartesian_moe_jax.kernels.leg_trials import feed_forward_legs, operands, operations, run_of
from cartesian_moe_jax.kernels.ragged import RAGGED
from cartesian_moe_jax.kernels.timings import Timing
from cartesian_moe_jax.kernels.tuning import described, measure, merged
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


def run(context: Context) -> None:
    """Measure every leg that is not yet in the record."""
    sizes, record = context.sizes, context.record
    own = kept.users_file(device_kind())
    own.parent.mkdir(parents=True, exist_ok=True)
    files = own, context.folder / kept.file_name(device_kind())
    # Only what is in the record too: what lies there may be of other kernels.
    known = {LegShape(*(m[f] for f in LegShape._fields)) for m in record.measurements}
    found = [t for t in (kept.read(own) if own.is_file() else ()) if t.shape in known]
    dense = functools.cache(functools.partial(_by, context, DENSE))
    noted: set[str] = set()
    ragged = set(_legs(sizes.ragged_legs, sizes.dtype))
    for shape in dict.fromkeys(_legs(sizes.legs, sizes.dtype)):
        if shape in known:
            continue
        new, failures = measure(shape, available())
        found += new
        for file in files:
            write_atomically(file, kept.as_json(merged((), found)))
        for failure in failures:
            if failure.line() not in noted:
                record.note(f"{failure.line()}, at {' '.join(map(str, shape))} and maybe others")
            noted.add(failure.line())
        record.add(**shape._asdict(), **_best(context, shape, new))
        record.extend(**_prefixed("dense", dense(shape._replace(experts=1))))
        if shape in ragged:
            # Last: should its memory end this process, the rest is known, and not tried again.
            record.extend(**_prefixed("ragged", _by(context, RAGGED, shape)))
    if "tokamax_triton" not in available():
        record.note("tokamax is not installed: its kernels are not measured")


def _legs(grid: Any, dtype: str) -> Iterator[LegShape]:
    for experts in grid:
        yield from feed_forward_legs(*experts, dtype)


def _best(context: Context, shape: LegShape, found: list[Timing]) -> dict[str, Any]:
    """The fastest, and the fastest of our own kernels."""
    ours = [timing for timing in found if timing.choice.backend in CANDIDATES]
    if not found:
        return {"fastest": "none works: see the notes"}
    best = min(found, key=lambda timing: timing.ms)
    rates = context.rate(operations(shape), best.ms)
    own = {"ours_ms": min(timing.ms for timing in ours)} if ours else {}
    return {"fastest": described(best.choice), "ms": best.ms, **rates, **own}


def _by(context: Context, matmul: GroupedMatmul, shape: LegShape) -> dict[str, Any]:
    """How long another way takes, or why it cannot be had."""
    try:
        arguments = operands(shape)
    except jax.errors.JaxRuntimeError as error:
        return {"none": str(error).splitlines()[0]}
    done = clock.measure(context.sizes.seconds / 3, run_of(shape, matmul), *arguments)
    if isinstance(done, str):
        return {"none": done}
    return {"ms": done, "tflops": operations(shape) / done / 1e9}


def _prefixed(name: str, values: dict[str, Any]) -> dict[str, Any]:
    return {f"{name}_{key}": value for key, value in values.items()}
