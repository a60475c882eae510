"""The paper's router: softmax over all experts, then the k most probable."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from cartesian_moe_jax.kernels import largest
from cartesian_moe_jax.layers.initializers import normal
from cartesian_moe_jax.moe.routers.linear_scores import linear_scores
from cartesian_moe_jax.moe.routers.router import Router
from cartesian_moe_jax.moe.routing import RouterContext, Routing, Scores
from cartesian_moe_jax.moe.shape import SubLayerShape

EPS = 1.1920929e-7
"""float32 machine epsilon: the least that the chosen probabilities are divided by."""


def choose_top_k(scores: Scores, top_k: int) -> Routing:
    """Choose the k most probable: w_i = p_i / max(sum of the chosen p, EPS) if k > 1, else p_i."""
    chosen, expert_ids = largest(scores.probabilities, top_k)
    weights = chosen
    if top_k > 1:
        weights = chosen / jnp.maximum(jnp.sum(chosen, axis=-1, keepdims=True), EPS)
    return Routing(expert_ids, weights, priority=chosen)


class SoftmaxTopK(Router):
    """p = softmax(W x) in float32; the top k, renormalised when k > 1."""

    learned = True
    reads_table = False

    def __init__(self, shape: SubLayerShape, *, rngs: nnx.Rngs):
        self.weight = normal(rngs, (shape.d_model, shape.num_experts), shape.init_std)
        self.top_k = shape.top_k

    @staticmethod
    def slots(shape: SubLayerShape) -> int:
        """Return k: every token uses that many."""
        return shape.top_k

    def scores(self, x: Float[Array, "tokens d_model"], context: RouterContext) -> Scores:
        """Score every expert for every token."""
        return linear_scores(x, self.weight[...])

    def choose(self, scores: Scores) -> Routing:
        """Choose each token's k most probable experts."""
        return choose_top_k(scores, self.top_k)
