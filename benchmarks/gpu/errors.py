"""How far results are from exact ones."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

TOLERANCES = {
    ("bfloat16", "bfloat16"): 1e-2,
    ("bfloat16", "float32"): 1e-3,
    ("float32", "float32"): 1e-4,
}
"""By the dtypes of operands and result, of the worst row or expert.

Rounding once to bfloat16 is up to 0.002, and foreign kernels round twice; sums in float32 of
thousands of exact products are off by 1e-5; TensorFloat-32, which nobody asked for, by 5e-4.
"""
PASS, FAIL, NONE = "PASS", "FAIL", "none"
"""NONE: a foreign kernel does not compute this."""
IN_A_ROW = 3.0
"""Times the tolerance: what several computations, each within it, may be off by in a row."""


class Error(NamedTuple):
    """Relative, in the Euclidean norm; infinite where a number is none."""

    whole: float
    """Of the whole array."""
    worst: float
    """Of the slice along the first axis, a row or an expert, that is off the most."""


def verdict(error: Error, tolerance: float) -> dict[str, Any]:
    """What a measurement says of an error."""
    result = PASS if error.worst <= tolerance else FAIL
    return {**error._asdict(), "tolerance": tolerance, "result": result}


def error_of(
    result: Float[Array, "slices ..."],
    exact: Float[Array, "slices ..."],
    counted: Bool[Array, "slices"] | None = None,
) -> Error:
    """Compare in float64; slices that do not count may hold anything."""
    counted = jnp.ones(exact.shape[0], bool) if counted is None else counted
    with jax.enable_x64(True):
        return Error(*map(float, _errors(result, exact, counted)))


@jax.jit
def _errors(
    result: Float[Array, "slices ..."],
    exact: Float[Array, "slices ..."],
    counted: Bool[Array, "slices"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    result, exact = (a.astype(jnp.float64).reshape(a.shape[0], -1) for a in (result, exact))
    squares = (jnp.sum(jnp.square(array), 1) for array in (result - exact, exact))
    difference, size = (jnp.where(counted, square, 0) for square in squares)
    return _ratio(jnp.sum(difference), jnp.sum(size)), jnp.max(_ratio(difference, size))


def _ratio(difference: Float[Array, "*n"], size: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """The quotient; of nothing, any difference is infinite."""
    quotient = jnp.sqrt(difference / jnp.where(size > 0, size, 1))
    sound = ((size > 0) | (difference == 0)) & jnp.isfinite(quotient)
    return jnp.where(sound, quotient, jnp.inf)
