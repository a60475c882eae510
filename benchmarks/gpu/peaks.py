"""What this machine reaches at its best: the product of square matrices, and a copy of memory."""

import jax
import jax.numpy as jnp

from benchmarks.gpu.clock import attempt, measure, time_case
from benchmarks.gpu.context import Context
from benchmarks.timing import compile_case
from cartesian_moe_jax.kernels.leg_trials import SERIES


def run(context: Context) -> None:
    """Measure both; random numbers, since of zeros a product is faster."""
    _product(context)
    _copy(context)


def _product(context: Context) -> None:
    """In series of every length that something is timed in, the short ones first."""
    sizes, record = context.sizes, context.record
    n, dtype = sizes.square, jnp.dtype(sizes.dtype)
    a, b = (jax.random.normal(key, (n, n), dtype) for key in jax.random.split(jax.random.key(0)))
    case = attempt(lambda: compile_case("", jnp.matmul, a, b))
    for seconds in sorted({SERIES, sizes.seconds, 5 * sizes.seconds}):
        found = time_case(case, seconds)
        if isinstance(found, str):
            record.note(f"the product of square matrices is not timed: {found}")
            return
        size = {"what": "matmul", "size": f"{n} x {n} x {n} {dtype.name}"}
        rate = {"ms": found, "tflops": 2 * n**3 / found / 1e9}
        record.add(**size, ms_per_series=1e3 * seconds, **rate)


def _copy(context: Context) -> None:
    sizes, record = context.sizes, context.record
    array = jax.random.normal(jax.random.key(1), (sizes.copied_bytes // 4,), jnp.float32)
    seconds = 5 * sizes.seconds
    found = measure(seconds, lambda x: x + 1, array)
    if isinstance(found, str):
        record.note(f"copying is not timed: {found}")
        return
    size = {"what": "copy", "size": f"{array.nbytes / 1e9:.2f} GB, read and written"}
    rate = {"ms": found, "gigabytes_per_s": 2 * array.nbytes / found / 1e6}
    record.add(**size, ms_per_series=1e3 * seconds, **rate)
