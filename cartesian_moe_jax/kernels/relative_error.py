"""How far results are from exact ones: of all of it, and of the row that is off the most."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cartesian_moe_jax.kernels.blocks import LegShape
from cartesian_moe_jax.kernels.composed import is_live


class Error(NamedTuple):
    """Relative, in the Euclidean norm; infinite where a number is none."""

    whole: float
    """Of the whole array."""
    worst: float
    """Of the slice along the first axis, a row or an expert, that is off the most."""


def error_of_leg(
    shape: LegShape, group_sizes: Int[Array, "experts"], results: Any, exact: Any
) -> Error:
    """The largest of all results of a leg; rows of no group may hold anything."""
    counted = None if shape.leg == "to_weights" else is_live(shape.rows, group_sizes)[:, 0]
    pairs = zip(jax.tree.leaves(results), jax.tree.leaves(exact), strict=True)
    errors = [error_of(result, right, counted) for result, right in pairs]
    return Error(*map(max, zip(*errors, strict=True)))


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
