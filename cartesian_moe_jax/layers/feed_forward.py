"""One position-wise feed-forward network: a dense layer's, or a shared expert's."""

import jax
from flax import nnx
from jaxtyping import Array, Float

from cartesian_moe_jax.kernels.activations import get_activation
from cartesian_moe_jax.kernels.dense import dense_feed_forward
from cartesian_moe_jax.layers.initializers import normal


class FeedForward(nnx.Module):
    """Gated: W_down (act(W_gate x) * (W_up x)); plain: W_down act(W_up x). No biases."""

    def __init__(self, d_model: int, d_ff: int, activation: str, std: float, *, rngs: nnx.Rngs):
        self.activation = activation
        if get_activation(activation).gated:
            self.gate = normal(rngs, (d_model, d_ff), std)
        self.up = normal(rngs, (d_model, d_ff), std)
        self.down = normal(rngs, (d_ff, d_model), std)

    @jax.named_scope("feed_forward")
    def __call__(self, x: Float[Array, "*batch d_model"]) -> Float[Array, "*batch d_model"]:
        """Compute in x's dtype."""
        activation = get_activation(self.activation)
        gate = self.gate[...] if activation.gated else None
        return dense_feed_forward(x, gate, self.up[...], self.down[...], activation)
