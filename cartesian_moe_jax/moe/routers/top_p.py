"""Top-p routing: as many experts as it takes to pass a share of the probability."""

import math

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from cartesian_moe_jax.kernels import largest
from cartesian_moe_jax.layers.initializers import normal
from cartesian_moe_jax.moe.routers.linear_scores import linear_scores
from cartesian_moe_jax.moe.routers.router import Router
from cartesian_moe_jax.moe.routing import RouterContext, Routing, Scores
from cartesian_moe_jax.moe.shape import SubLayerShape

TIE = 1e-6
"""Keeps p * E from falling below a whole number by rounding."""


class TopP(Router):
    """p = softmax(W x) in float32; by falling p, experts until their sum passes top_p.

    The expert that crosses top_p is kept, so at least one is. Weights are the probabilities
    themselves, as in the official code: they add up to between top_p and 1.
    """

    learned = True
    reads_table = False

    def __init__(self, shape: SubLayerShape, *, rngs: nnx.Rngs):
        self.weight = normal(rngs, (shape.d_model, shape.num_experts), shape.init_std)
        self.top_p, self.max_chosen = shape.top_p, self.slots(shape)

    @staticmethod
    def slots(shape: SubLayerShape) -> int:
        """Return floor(p E) + 1: the n most probable experts have at least n / E together."""
        return min(math.floor(shape.top_p * shape.num_experts + TIE) + 1, shape.num_experts)

    def scores(self, x: Float[Array, "tokens d_model"], context: RouterContext) -> Scores:
        """Score every expert for every token."""
        return linear_scores(x, self.weight[...])

    def choose(self, scores: Scores) -> Routing:
        """Keep a rank if the ranks before it have at most top_p together."""
        num_experts = scores.probabilities.shape[-1]
        ranked, expert_ids = largest(scores.probabilities, self.max_chosen)
        before = jnp.cumsum(ranked, axis=-1)[:, :-1]
        kept = jnp.pad(before <= self.top_p, ((0, 0), (1, 0)), constant_values=True)
        weights = jnp.where(kept, ranked, 0.0)
        return Routing(jnp.where(kept, expert_ids, num_experts), weights, priority=weights)
