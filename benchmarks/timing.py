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
import numpy as np


@dataclasses.dataclass(frozen=True)
class Case:
    """A compiled function with its arguments."""

    name: str
    run: Callable[[], Any]
    """Runs it once; what it returns is waited for."""
    temporary_bytes: int
    """Memory it takes beside its arguments and results, as the compiler states it."""
    compile_seconds: float
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

    def record(self) -> dict[str, str | float]:
        """Its numbers under names that state the units, for JSON."""
        return {
            "name": self.case.name,
            "median_ms": self.median,
            "lower_quartile_ms": self.lower_quartile,
            "upper_quartile_ms": self.upper_quartile,
            "rounds": self.rounds,
            "temporary_bytes": self.case.temporary_bytes,
            "compile_seconds": self.case.compile_seconds,
        }


def compile_case(name: str, function: Callable[..., Any], *arguments: Any) -> Case:
    """Compiles function(*arguments); `arguments` are pytrees of arrays."""
    start = time.perf_counter()
    compiled = jax.jit(function).lower(*arguments).compile()
    seconds = time.perf_counter() - start
    temporary = compiled.memory_analysis().temp_size_in_bytes
    return Case(name, lambda: compiled(*arguments), temporary, seconds)


def time_cases(cases: Sequence[Case], rounds: int = 15, warm_up: int = 2) -> list[Timing]:
    """Times all cases together, in `rounds` rounds after `warm_up` that do not count."""
    seconds = [[] for _ in cases]
    shuffled = random.Random(0)
    for turn in range(warm_up + rounds):
        for index in shuffled.sample(range(len(cases)), len(cases)):
            elapsed = _time_once(cases[index])
            if turn >= warm_up:
                seconds[index].append(elapsed)
    return [_summarise(case, times) for case, times in zip(cases, seconds, strict=True)]


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


def _time_once(case: Case) -> float:
    case.before()
    start = time.perf_counter()
    jax.block_until_ready(case.run())
    return time.perf_counter() - start


def _summarise(case: Case, seconds: Sequence[float]) -> Timing:
    lower, median, upper = (float(ms) for ms in np.percentile(seconds, (25, 50, 75)) * 1e3)
    return Timing(case, median, lower, upper, len(seconds))
