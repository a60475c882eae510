"""Initial weights: N(0, std) throughout, as in the authors' trainer."""

import jax
from flax import nnx


def normal(rngs: nnx.Rngs, shape: tuple[int, ...], std: float) -> nnx.Param:
    """Return a parameter of independent normal values, mean 0 and standard deviation ``std``."""
    return nnx.Param(std * jax.random.normal(rngs.params(), shape))
