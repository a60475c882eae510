"""Functions computed in float64: what is right."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from cartesian_moe_jax.kernels.leg_trials import Operands, Run, compile_run


def compile_in_float64(function: Run, arguments: Operands) -> Run:
    """Compile the function for float64 in place of what its operands are."""
    with jax.enable_x64(True):
        return compile_run(function, jax.tree.map(_wide, arguments))


def in_float64(compiled: Run, arguments: Operands) -> Any:
    """The result of such a function, of operands that are cast up."""
    with jax.enable_x64(True):

        def cast(array: Array) -> Array:
            return array.astype(_wide(array).dtype)

        return jax.block_until_ready(compiled(*jax.tree.map(cast, arguments)))


def _wide(array: Array | jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    floating = jnp.issubdtype(array.dtype, jnp.floating)
    return jax.ShapeDtypeStruct(array.shape, jnp.float64 if floating else array.dtype)
