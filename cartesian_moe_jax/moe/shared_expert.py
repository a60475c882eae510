"""The shared expert, which every token uses beside its routed ones."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from cartesian_moe_jax.layers.feed_forward import FeedForward
from cartesian_moe_jax.layers.initializers import normal


class SharedExpert(nnx.Module):
    """c = softmax(A x + a); the sub-layer gives c_0 routed(x) + c_1 shared(x)."""

    def __init__(self, d_model: int, d_expert: int, activation: str, std: float, *, rngs: nnx.Rngs):
        self.feed_forward = FeedForward(d_model, d_expert, activation, std, rngs=rngs)
        self.coefficient = normal(rngs, (d_model, 2), std)
        self.bias = nnx.Param(jnp.zeros((2,)))

    def mix(
        self, x: Float[Array, "tokens d_model"], routed: Float[Array, "tokens d_model"]
    ) -> Float[Array, "tokens d_model"]:
        """Mix what the routed experts made of x with what the shared expert makes of it."""
        logits = x @ self.coefficient[...].astype(x.dtype) + self.bias[...].astype(x.dtype)
        c = jax.nn.softmax(logits, axis=-1)
        return c[:, :1] * routed + c[:, 1:] * self.feed_forward(x)
