"""The paper's router: softmax over all experts, then the k most probable."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from cartesian_moe_jax.layers.initializers import normal
from cartesian_moe_jax.moe.routing import RouterContext, Routing, Scores

EPS = 1.1920929e-7
"""float32 machine epsilon: the least that the chosen probabilities are divided by."""


class SoftmaxTopK(nnx.Module):
    """p = softmax(W x) in float32; the top k, renormalised when k > 1."""

    def __init__(self, d_model: int, num_experts: int, top_k: int, std: float, *, rngs: nnx.Rngs):
        self.weight = normal(rngs, (d_model, num_experts), std)
        self.top_k = top_k

    def scores(self, x: Float[Array, "tokens d_model"], context: RouterContext) -> Scores:
        """Score every expert for every token, whatever x's dtype, in float32."""
        logits = jnp.dot(
            x.astype(jnp.float32), self.weight[...], precision=jax.lax.Precision.HIGHEST
        )
        return Scores(logits, jax.nn.softmax(logits, axis=-1))

    def choose(self, scores: Scores) -> Routing:
        """Choose each token's experts: w_i = p_i / max(sum of the chosen p, EPS) if k > 1."""
        chosen, expert_ids = jax.lax.top_k(scores.probabilities, self.top_k)
        weights = chosen
        if self.top_k > 1:
            weights = chosen / jnp.maximum(jnp.sum(chosen, axis=-1, keepdims=True), EPS)
        return Routing(expert_ids, weights, priority=chosen)
