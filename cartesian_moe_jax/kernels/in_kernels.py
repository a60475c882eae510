"""What kernels can compute of the products before they write them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal, jaxprs_in_params
from jaxtyping import Array, Float

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


def _logistic(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """1 / (1 + exp(-x)): GPUs have a fast root of the inverse, but no fast inverse."""
    root = jax.lax.rsqrt(1 + jnp.exp(-x))
    return root * root


HOPPER_FORMS: Mapping[str, Callable[..., Array]] = MappingProxyType(
    {
        # Sums of gradients; Mosaic does not know jax's operation for them on GPUs.
        "add_any": jax.lax.add,
        "logistic": _logistic,
    }
)
"""What is computed in place of some operations."""


def in_hopper_forms(finish: Finish) -> Finish:
    """The same computation, as Hopper's kernels compute it fastest."""

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
    if form := HOPPER_FORMS.get(equation.primitive.name):
        return [form(*inputs)]
    for inner in jaxprs_in_params(equation.params):
        return _evaluate(inner, inputs)
    found = equation.primitive.bind(*inputs, **equation.params)
    return found if equation.primitive.multiple_results else [found]
