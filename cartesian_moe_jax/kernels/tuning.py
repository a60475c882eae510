"""Measures every way to compute a leg of a given shape."""

import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import jax

from cartesian_moe_jax.columns import columns
from cartesian_moe_jax.kernels.blocks import LegShape
from cartesian_moe_jax.kernels.by_leg import CANDIDATES, LEG_BACKENDS, OURS, default
from cartesian_moe_jax.kernels.leg_groups import sparse_groups, with_groups
from cartesian_moe_jax.kernels.leg_trials import (
    Operands,
    Run,
    compile_run,
    operands,
    operations,
    run_of,
    time_run,
)
from cartesian_moe_jax.kernels.plain import PLAIN
from cartesian_moe_jax.kernels.relative_error import error_of_leg
from cartesian_moe_jax.kernels.timings import Choice, Timing, Timings
from cartesian_moe_jax.kernels.triton import triton_matmul

TRIED = {**LEG_BACKENDS, OURS: functools.partial(triton_matmul, in_place=False)}
"""The backends as they are measured: again and again, on operands that must stay."""

THREADS = min(16, os.cpu_count() or 1)
"""That compile at once."""

TOLERANCE = 2e-2
"""Of a row or expert, relative to the plain loop's: both round to bfloat16."""

SPARSE = " where groups are empty and rows in none"

HEADER = ("leg", "rows", "experts", "inputs", "outputs", "fastest", "ms", "TFLOP/s", "triton/it")


class Failure(NamedTuple):
    """A choice that does not compute a shape."""

    shape: LegShape
    choice: Choice
    reason: str

    def line(self) -> str:
        """Say what failed, and why."""
        return f"{described(self.choice)}: {self.reason}"


def choices(shape: LegShape, backends: Sequence[str]) -> list[Choice]:
    """Every way to compute a leg; the default first."""
    first = default(shape, backends)
    every = [
        Choice(name, block)
        for name in backends
        for block in (CANDIDATES[name](shape) if name in CANDIDATES else (None,))
    ]
    return [first, *[choice for choice in every if choice != first]]


def measure(shape: LegShape, backends: Sequence[str]) -> tuple[list[Timing], list[Failure]]:
    """Measure all choices of a shape.

    What a choice computes is compared with the plain loop: a wrong one is a failure.
    """
    return measure_compiled(compile_choices(shape, backends))


class Programs(NamedTuple):
    """A leg, compiled."""

    shape: LegShape
    by_choice: Mapping[Choice, Run | str]
    """Or why it cannot be had."""
    plain: Run
    """The plain loop: what is right."""


def compile_choices(shape: LegShape, backends: Sequence[str]) -> Programs:
    """Compile every way to compute a leg, all at the same time."""
    arguments, tried = jax.eval_shape(lambda: operands(shape)), choices(shape, backends)
    with ThreadPoolExecutor(THREADS) as pool:
        plain = pool.submit(compile_run, run_of(shape, PLAIN), arguments)
        compiled = list(pool.map(lambda choice: compile_choice(shape, choice, arguments), tried))
        return Programs(shape, dict(zip(tried, compiled, strict=True)), plain.result())


def compile_choice(shape: LegShape, choice: Choice, arguments: Operands) -> Run | str:
    """The compiled leg, or why it cannot be had."""
    try:
        matmul = TRIED[choice.backend](choice.block)
        return compile_run(run_of(shape, matmul), arguments)
    except Exception as error:  # of a foreign library: whatever it is, the choice is none
        return one_line(error)


Running = Callable[[Choice], AbstractContextManager[None]]
"""What lies around every run of a choice, which may not end."""


def measure_compiled(
    programs: Programs, running: Running = lambda _: nullcontext()
) -> tuple[list[Timing], list[Failure]]:
    """Compare what all choices compute with the plain loop, and time those that are right."""
    shape, runs = programs.shape, programs.by_choice
    full = operands(shape)
    found: dict[Choice, float | str] = {c: run for c, run in runs.items() if isinstance(run, str)}
    for groups, words in ((full[2], ""), (sparse_groups(shape), SPARSE)):
        left = [choice for choice in runs if choice not in found]
        wrong = _compare(programs, left, with_groups(shape, full, groups), running)
        found |= {choice: reason + words for choice, reason in wrong.items()}
    for choice in [choice for choice in runs if choice not in found]:
        found[choice] = _attempt(_time, runs[choice], full, running(choice))
    timings = [Timing(shape, c, found[c]) for c in runs if not isinstance(found[c], str)]
    return timings, [Failure(shape, c, found[c]) for c in runs if isinstance(found[c], str)]


def _compare(
    programs: Programs, tried: Sequence[Choice], arguments: Operands, running: Running
) -> dict[Choice, str]:
    """Which choices do not compute what the plain loop does, and why."""
    shape, expected = programs.shape, programs.plain(*arguments)
    reasons = {
        choice: _attempt(
            _wrong, programs.by_choice[choice], shape, arguments, expected, running(choice)
        )
        for choice in tried
    }
    return {choice: reason for choice, reason in reasons.items() if reason}


def _attempt(measure: Callable[..., float | str], *operands: Any) -> float | str:
    try:
        return measure(*operands)
    except jax.errors.JaxRuntimeError as error:
        return one_line(error)


def _wrong(
    run: Run,
    shape: LegShape,
    arguments: Operands,
    expected: Any,
    running: AbstractContextManager[None],
) -> str:
    """What is wrong, if anything: in the worst row, since one in thousands is none in all."""
    with running:
        result = jax.block_until_ready(run(*arguments))
    worst = error_of_leg(shape, arguments[2], result, expected).worst
    return f"wrong by {worst:.2g}" if worst > TOLERANCE else ""


def _time(run: Run, arguments: Operands, running: AbstractContextManager[None]) -> float:
    with running:
        return time_run(run, arguments)


def described(choice: Choice) -> str:
    """As in: triton 128x64x128 w8 s3 (rows, inputs and outputs of a block, warps, stages)."""
    block = choice.block
    sizes = "" if block is None else " {}x{}x{} w{} s{}".format(*vars(block).values())
    return choice.backend + sizes


def one_line(error: Exception) -> str:
    """The kind of an error and the beginning of what it says."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0][:150] if lines else ''}"


def merged(old: Timings, new: Iterable[Timing]) -> Timings:
    """The old measurements, each replaced by a new one of the same shape and choice."""
    newest = {timing[:2]: timing for timing in (*old, *new)}
    return tuple(newest.values())


def table(timings: Iterable[Timing]) -> str:
    """The fastest choice of each shape, and how long our own kernel takes against it."""
    by_shape: dict[LegShape, list[Timing]] = {}
    for timing in timings:
        by_shape.setdefault(timing.shape, []).append(timing)
    rows = [_row(shape, each) for shape, each in by_shape.items()]
    return columns([HEADER, *rows])


def _row(shape: LegShape, timings: list[Timing]) -> tuple[str, ...]:
    best = min(timings, key=lambda timing: timing.ms)
    ours = min((t.ms for t in timings if t.choice.backend == OURS), default=float("nan"))
    leg = f"{shape.leg}{' x2' if shape.products == 2 else ''}"
    numbers = (f"{number:,}" for number in shape[1:5])
    rate = operations(shape) / best.ms / 1e9
    share = f"{ours / best.ms:.2f}"
    return (leg, *numbers, described(best.choice), f"{best.ms:.3f}", f"{rate:.0f}", share)
