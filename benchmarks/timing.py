"""Interleaved timing of several compiled functions in one process.

On a machine with other work on it, two functions timed one after the other are not comparable.
Here every round runs all of them once, in a new order, and medians are compared.
"""

import dataclasses
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

WARM_SECONDS, TIMED_SECONDS, MOST_ROUNDS = 2.0, 2.0, 100
"""Rounds go on for so long, unless there have been so many: what is quick is timed more often.

The first rounds do not count: the process's memory still grows in them.
"""
PEAK_SIZE = 2048


@dataclasses.dataclass(frozen=True)
class Case:
    """A compiled function with its arguments."""

    name: str
    run: Callable[[], Any]
    """Runs it once; what it returns is waited for."""
    temporary_bytes: int
    """Memory it takes beside its arguments and results, as the compiler states it, or as was
    measured where there is no compiler."""
    compile_seconds: float
    flops: float = 0.0
    """Floating-point operations that it needs, without recomputation; 0: not counted."""
    before: Callable[[], Any] = lambda: None
    """Runs before each time, outside of it."""


@dataclasses.dataclass(frozen=True)
class Timing:
    """The times of one case, in milliseconds."""

    case: Case
    median: float
    lower_quartile: float
    upper_quartile: float
    rounds: int

    def quartiles(self) -> str:
        """Return the quartiles as a cell of a table."""
        return f"{self.lower_quartile:.1f}-{self.upper_quartile:.1f}"

    def of_peak(self, peak: "Timing") -> str:
        """Return the share of the machine's peak that it reaches, as a cell of a table."""
        rate, best = self.case.flops / self.median, peak.case.flops / peak.lower_quartile
        return f"{rate / best:.0%}" if rate else ""

    def record(self) -> dict[str, str | float]:
        """Its numbers under names that state the units, for JSON."""
        return {
            "name": self.case.name,
            "median_ms": self.median,
            "lower_quartile_ms": self.lower_quartile,
            "upper_quartile_ms": self.upper_quartile,
            "rounds": self.rounds,
            "flops": self.case.flops,
            "temporary_bytes": self.case.temporary_bytes,
            "compile_seconds": self.case.compile_seconds,
        }


def compile_case(
    name: str, function: Callable[..., Any], *arguments: Any, flops: float = 0.0
) -> Case:
    """Compiles function(*arguments); `arguments` are pytrees of arrays."""
    start = time.perf_counter()
    compiled = jax.jit(function).lower(*arguments).compile()
    seconds = time.perf_counter() - start
    temporary = compiled.memory_analysis().temp_size_in_bytes
    return Case(name, lambda: compiled(*arguments), temporary, seconds, flops)


def peak_case(dtype: Any = jnp.float32) -> Case:
    """The square matrix product whose rate is called the machine's peak."""
    square = jnp.ones((PEAK_SIZE, PEAK_SIZE), dtype)
    return compile_case("peak", lambda a, b: a @ b, square, square, flops=2 * PEAK_SIZE**3)


def peak_line(peak: Timing) -> str:
    """Says what the peak is."""
    rate = peak.case.flops / peak.lower_quartile / 1e6
    return f"peak: {rate:.0f} GFLOP/s, a product of {PEAK_SIZE} x {PEAK_SIZE} matrices"


def time_cases(cases: Sequence[Case], rounds: int = 15, warm_up: int = 2) -> list[Timing]:
    """Times all cases together, in at least `rounds` rounds after `warm_up` that do not count."""
    shuffled = random.Random(0)

    def turn() -> list[float]:
        seconds = [0.0] * len(cases)
        for index in shuffled.sample(range(len(cases)), len(cases)):
            seconds[index] = _time_once(cases[index])
        return seconds

    _repeat(turn, warm_up, WARM_SECONDS)
    times = zip(*_repeat(turn, rounds, TIMED_SECONDS), strict=True)
    return [_summarise(case, seconds) for case, seconds in zip(cases, times, strict=True)]


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their longest cell, the first one left-aligned, the others right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (header, *rows)
    )


def _repeat(turn: Callable[[], list[float]], least: int, seconds: float) -> list[list[float]]:
    start, turns = time.perf_counter(), []
    while len(turns) < least or (
        len(turns) < MOST_ROUNDS and time.perf_counter() - start < seconds
    ):
        turns.append(turn())
    return turns


def _time_once(case: Case) -> float:
    case.before()
    start = time.perf_counter()
    jax.block_until_ready(case.run())
    return time.perf_counter() - start


def _summarise(case: Case, seconds: Sequence[float]) -> Timing:
    lower, median, upper = (float(ms) for ms in np.percentile(seconds, (25, 50, 75)) * 1e3)
    return Timing(case, median, lower, upper, len(seconds))
