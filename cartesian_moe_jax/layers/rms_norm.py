"""RMSNorm."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class RMSNorm(nnx.Module):
    """x * gain / sqrt(mean(x^2) + eps), with the statistics in float32."""

    def __init__(self, d_model: int, eps: float):
        self.gain = nnx.Param(jnp.ones((d_model,)))
        self.eps = eps

    @jax.named_scope("norm")
    def __call__(self, x: Float[Array, "*batch d_model"]) -> Float[Array, "*batch d_model"]:
        """Return the normalised x in x's dtype."""
        x32 = x.astype(jnp.float32)
        scale = jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + self.eps)
        return (x32 * scale * self.gain[...]).astype(x.dtype)
