"""Do the Hopper kernels end, and are they right? If not, the parts that follow go without them.

They wait for copies and for one another, so a fault in them may stop a GPU, not only be wrong.
"""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from benchmarks.gpu.context import Context
from benchmarks.gpu.record import Record
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.kernels.blocks import LegShape
from cartesian_moe_jax.kernels.by_leg import HOPPER, available
from cartesian_moe_jax.kernels.left_out import WITHOUT
from cartesian_moe_jax.kernels.leg_trials import feed_forward_legs, operations
from cartesian_moe_jax.kernels.timings import Choice
from cartesian_moe_jax.kernels.tuning import (
    Programs,
    compile_choices,
    described,
    measure_compiled,
)

ENOUGH = (("forward", 2), ("to_rows", 1), ("to_rows", 2), ("to_weights", 1))
"""Legs and products with all that these kernels do; one product forward is less than two."""


def legs(context: Context) -> Sequence[LegShape]:
    """One leg of each kind."""
    first: dict[tuple[str, int], LegShape] = {}
    for shape in feed_forward_legs(*context.sizes.checked[0], context.sizes.dtype):
        first.setdefault((shape.leg, shape.products), shape)
    return [first[kind] for kind in ENOUGH]


def run(context: Context) -> None:
    """Try those whose groups share tiles."""
    try_all(context, HOPPER)


def try_all(context: Context, backend: str) -> None:
    """Run every block of those legs at one shape; the record says which one is running.

    Raises UserError if one of the backend's kernels fails or is wrong.
    """
    record = context.record
    if backend not in available():
        record.note(f"this is no Hopper GPU, or they are left out by {WITHOUT}")
        return
    shapes = legs(context)
    for shape, programs in zip(shapes, compile_all(shapes, backend), strict=True):
        timings, failures = measure_compiled(programs, functools.partial(_running, record, shape))
        for timing in timings:
            tflops = operations(shape) / timing.ms / 1e9
            record.add(**shape._asdict(), by=described(timing.choice), ms=timing.ms, tflops=tflops)
        for failure in failures:
            record.state(failed=[*record.content.get("failed", []), failure.line()])
            record.note(failure.line())
    if failed := record.content.get("failed"):
        raise UserError(f"{len(failed)} kernels are wrong or do not run: {failed[0]}")


def compile_all(shapes: Sequence[LegShape], backend: str) -> list[Programs]:
    """All legs at the same time: compiling is what takes most of it."""
    with ThreadPoolExecutor(len(shapes)) as pool:
        return list(pool.map(lambda shape: compile_choices(shape, (backend,)), shapes))


@contextlib.contextmanager
def _running(record: Record, shape: LegShape, choice: Choice) -> Iterator[None]:
    record.state(running=f"{shape.leg} x{shape.products} by {described(choice)}")
    try:
        yield
    finally:
        record.state(running="")
