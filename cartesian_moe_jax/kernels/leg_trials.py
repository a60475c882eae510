"""One leg of a grouped matmul, made ready to be run and timed on the device at hand."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from cartesian_moe_jax.kernels.activations import get_activation
from cartesian_moe_jax.kernels.blocks import LegShape
from cartesian_moe_jax.kernels.composed import GroupedMatmul, as_they_are
from cartesian_moe_jax.kernels.plain import PLAIN

_GATED = get_activation("swiglu")

Operands = tuple[Any, ...]
Run = Callable[..., Any]

SERIES = 0.03
"""Seconds that a series of runs takes, of those whose median is the time."""


def feed_forward_legs(
    rows: int, experts: int, d_model: int, d_expert: int, dtype: str
) -> tuple[LegShape, ...]:
    """The six legs that experts with SwiGLU compute."""
    into, out = (d_model, d_expert), (d_expert, d_model)
    return tuple(
        LegShape(leg, rows, experts, *widths, products, dtype)
        for leg, widths, products in (
            ("forward", into, 2),
            ("forward", out, 1),
            ("to_rows", out, 1),
            ("to_rows", into, 2),
            ("to_weights", into, 1),
            ("to_weights", out, 1),
        )
    )


def operations(shape: LegShape) -> int:
    """The floating-point operations of a leg, those of the activation left out."""
    return 2 * shape.products * shape.rows * shape.inputs * shape.outputs


def moved_bytes(shape: LegShape) -> int:
    """What a leg must read and write: all of its operands and results, each of them once."""
    arguments = jax.eval_shape(lambda: operands(shape))
    results = jax.eval_shape(run_of(shape, PLAIN), *arguments)
    return sum(array.size * array.dtype.itemsize for array in jax.tree.leaves((arguments, results)))


def group_sizes(shape: LegShape, seed: int = 0) -> Int[Array, "experts"]:
    """Loads as uneven as if every row chose its expert by itself."""
    even = np.full(shape.experts, 1 / shape.experts)
    return jnp.asarray(np.random.default_rng(seed).multinomial(shape.rows, even), jnp.int32)


def operands(shape: LegShape, seed: int = 0) -> Operands:
    """What `run_of` takes: random numbers, never zeros, with which kernels run faster."""
    keys = iter(jax.random.split(jax.random.key(seed), 8))

    def array(*sizes: int) -> Float[Array, "..."]:
        scale = sizes[-2] ** -0.5 if len(sizes) == 3 else 1.0
        return scale * jax.random.normal(next(keys), sizes, shape.dtype)

    count, experts, inputs, outputs = shape[1:5]
    sizes = group_sizes(shape, seed)
    if shape.leg == "to_weights":
        return array(count, inputs), array(count, outputs), sizes
    weights = tuple(array(experts, inputs, outputs) for _ in range(shape.products))
    if shape.leg == "forward":
        return array(count, inputs), weights, sizes
    d_outputs = tuple(array(count, outputs) for _ in range(shape.products))
    beside = tuple(array(count, inputs) for _ in range(2 if shape.products == 1 else 0))
    return d_outputs, weights, sizes, beside


def run_of(shape: LegShape, matmul: GroupedMatmul) -> Run:
    """The leg as a feed-forward with SwiGLU runs it, a function of `operands`."""

    def forward(rows: Any, weights: Any, sizes: Any) -> Any:
        finish = _GATED.keep_and_activate if shape.products == 2 else as_they_are
        return matmul.forward(rows, weights, sizes, finish)

    def to_rows(d_outputs: Any, weights: Any, sizes: Any, beside: Any) -> Any:
        finish = _GATED.recompute_and_pull if beside else as_they_are
        return matmul.to_rows(d_outputs, weights, sizes, finish, *beside)

    def to_weights(rows: Any, d_outputs: Any, sizes: Any) -> Any:
        wide = jnp.promote_types(rows.dtype, jnp.float32)
        return matmul.to_weights(rows, d_outputs, sizes, wide)

    legs = {"forward": forward, "to_rows": to_rows, "to_weights": to_weights}
    return legs[shape.leg]


def compile_run(run: Run, arguments: Operands) -> Run:
    """The compiled function."""
    return jax.jit(run).lower(*arguments).compile()


def time_run(run: Run, arguments: Operands, seconds: float = SERIES, repeats: int = 3) -> float:
    """The median milliseconds of a run, of `repeats` series that take about `seconds` each."""

    def series(length: int) -> float:
        start = time.perf_counter()
        for _ in range(length):
            result = run(*arguments)
        jax.block_until_ready(result)
        return (time.perf_counter() - start) / length

    series(1)
    length = max(1, min(200, int(seconds / series(2))))
    return 1e3 * float(np.median([series(length) for _ in range(repeats)]))
