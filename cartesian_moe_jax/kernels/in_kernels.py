"""What kernels can compute of the products before they write them."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import jaxprs_in_params

from cartesian_moe_jax.kernels.composed import Finish

LACKING = frozenset({"erf", "erfc"})
"""Elementwise operations that Pallas hands to neither Triton nor Mosaic: those of exact gelu."""


def in_kernels(finish: Finish, arguments: int) -> bool:
    """Whether kernels can compute it; if not, XLA does in a second pass."""
    program = jax.make_jaxpr(finish)(*[jax.ShapeDtypeStruct((1, 1), jnp.float32)] * arguments)
    return not LACKING & {equation.primitive.name for equation in _equations(program.jaxpr)}


def _equations(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from _equations(inner)
