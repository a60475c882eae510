"""What this machine reaches at its best: the product of square matrices, and a copy of memory."""

import jax
import jax.numpy as jnp

from benchmarks.gpu.clock import measure
from benchmarks.gpu.context import Context


def run(context: Context) -> None:
    """Measure both; random numbers, since of zeros a product is faster."""
    sizes, record = context.sizes, context.record
    n, dtype = sizes.square, jnp.dtype(sizes.dtype)
    a, b = (jax.random.normal(key, (n, n), dtype) for key in jax.random.split(jax.random.key(0)))
    found = measure(5 * sizes.seconds, jnp.matmul, a, b)
    if isinstance(found, str):
        record.note(f"the product of square matrices is not timed: {found}")
    else:
        size = {"what": "matmul", "size": f"{n} x {n} x {n} {dtype.name}"}
        record.add(**size, ms=found, tflops=2 * n**3 / found / 1e9)
    array = jax.random.normal(jax.random.key(1), (sizes.copied_bytes // 4,), jnp.float32)
    found = measure(5 * sizes.seconds, lambda x: x + 1, array)
    if isinstance(found, str):
        record.note(f"copying is not timed: {found}")
    else:
        size = {"what": "copy", "size": f"{array.nbytes / 1e9:.2f} GB, read and written"}
        record.add(**size, ms=found, gigabytes_per_s=2 * array.nbytes / found / 1e6)
