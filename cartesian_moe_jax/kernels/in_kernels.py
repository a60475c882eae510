"""What kernels can compute of the products before they write them."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal, jaxprs_in_params
from jaxtyping import Array

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


def with_plain_sums(finish: Finish) -> Finish:
    """The same computation, in which gradients are added as any numbers are.

    jax has an operation of its own for that, which Mosaic does not know on GPUs.
    """

    def finished(*arrays: Array) -> tuple[Array, ...]:
        program = jax.make_jaxpr(finish)(*arrays)
        return tuple(_evaluate(program.jaxpr, arrays))

    return finished


def _evaluate(jaxpr: Any, arguments: Sequence[Any]) -> list[Any]:
    """The results of a program without constants."""
    values = dict(zip(jaxpr.invars, arguments, strict=True))

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, Literal) else values[variable]

    for equation in jaxpr.eqns:
        results = _results(equation, [read(variable) for variable in equation.invars])
        values.update(zip(equation.outvars, results, strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def _results(equation: Any, inputs: Sequence[Any]) -> Sequence[Any]:
    if equation.primitive.name == "add_any":
        return [jax.lax.add(*inputs)]
    for inner in jaxprs_in_params(equation.params):
        return _evaluate(inner, inputs)
    found = equation.primitive.bind(*inputs, **equation.params)
    return found if equation.primitive.multiple_results else [found]
