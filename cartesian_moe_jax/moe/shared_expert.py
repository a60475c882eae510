"""The shared expert, which every token uses beside its routed ones."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from cartesian_moe_jax.layers.feed_forward import FeedForward
from cartesian_moe_jax.layers.initializers import normal
from cartesian_moe_jax.moe.shape import SubLayerShape


class SharedExpert(nnx.Module):
    """c = softmax(A x + a); the sub-layer gives c_0 routed(x) + c_1 shared(x).

    shared(x) is the mean of n feed-forwards of width d_expert. Side by side they are one of n
    times the width, divided by n: the first holds columns 0 to d_expert - 1, and so on.
    """

    def __init__(self, shape: SubLayerShape, *, rngs: nnx.Rngs):
        d_model, std = shape.d_model, shape.init_std
        self.averaged = shape.shared_feed_forwards
        width = self.averaged * shape.d_expert
        self.feed_forward = FeedForward(d_model, width, shape.activation, std, rngs=rngs)
        self.coefficient = normal(rngs, (d_model, 2), std)
        self.bias = nnx.Param(jnp.zeros((2,)))

    @jax.named_scope("shared_expert")
    def mix(
        self, x: Float[Array, "tokens d_model"], routed: Float[Array, "tokens d_model"]
    ) -> Float[Array, "tokens d_model"]:
        """Mix what the routed experts made of x with what the shared expert makes of it.

        In float32, since the gradients of c and a are sums over widths and tokens; the product
        with A has jax's default precision.
        """
        wide = jnp.float32
        c = jax.nn.softmax(x.astype(wide) @ self.coefficient[...] + self.bias[...], axis=-1)
        shared = self.feed_forward(x).astype(wide) / self.averaged
        return (c[:, :1] * routed.astype(wide) + c[:, 1:] * shared).astype(x.dtype)
