"""Compiles functions beside one another, times one at a time; what fails is a line that says why.

What is compiled on all cores at once takes a fraction of the time, which on a GPU is most of it.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax

from benchmarks.gpu.context import memory_limit
from benchmarks.timing import Case, compile_case
from cartesian_moe_jax.kernels.leg_trials import time_run
from cartesian_moe_jax.kernels.tuning import THREADS, one_line

Made = TypeVar("Made")
REPEATS = 5
FAILURES = (jax.errors.JaxRuntimeError, NotImplementedError, ValueError)


def together(makes: Iterable[Callable[[], Made]]) -> list[Made | str]:
    """What each of them makes, all at the same time; of those that fail, why."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(attempt, makes))


def attempt(make: Callable[[], Made]) -> Made | str:
    """What it makes, or why it fails."""
    try:
        return make()
    except FAILURES as error:
        return one_line(error)


def time_case(case: Case | str, seconds: float) -> float | str:
    """Milliseconds: the median of series that take about `seconds`; or why there are none."""
    if isinstance(case, str):
        return case
    needed = case.temporary_bytes
    if needed > 0.8 * memory_limit():
        return f"it would need {needed / 1e9:.0f} GB beside its operands"
    return attempt(lambda: time_run(case.run, (), seconds, REPEATS))


def measure(seconds: float, function: Callable[..., Any], *operands: Any) -> float | str:
    """Compile function(*operands) and time it."""
    return time_case(attempt(lambda: compile_case("", function, *operands)), seconds)
