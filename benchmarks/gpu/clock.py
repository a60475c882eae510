"""Compiles and times one function; what cannot be had is a line that says why."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from benchmarks.gpu.context import memory_limit
from cartesian_moe_jax.kernels.leg_trials import time_run
from cartesian_moe_jax.kernels.tuning import one_line

REPEATS = 5


class Measured(NamedTuple):
    """How long a compiled function takes."""

    ms: float
    temporary_bytes: int
    """Memory beside its operands and results."""
    compile_seconds: float


def measure(seconds: float, function: Callable[..., Any], *operands: Any) -> Measured | str:
    """Time function(*operands): the median of series that take about `seconds`."""
    try:
        start = time.perf_counter()
        compiled = jax.jit(function).lower(*operands).compile()
        compile_seconds = time.perf_counter() - start
        needed = compiled.memory_analysis().temp_size_in_bytes
        if needed > 0.8 * memory_limit():
            return f"it would need {needed / 1e9:.0f} GB beside its operands"
        ms = time_run(compiled, operands, seconds, REPEATS)
        return Measured(ms, needed, compile_seconds)
    except (jax.errors.JaxRuntimeError, NotImplementedError, ValueError) as error:
        return one_line(error)
