"""Interventions: routing that is made to go wrong, to see what it does to a model.

All are values that are traced: one compiled program serves every one of them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from cartesian_moe_jax.moe.routing import Routing, Scores, Swap


class Intervention(NamedTuple):
    """What is done to the routers, of one sub-layer or stacked [moe_layers, sublayers]."""

    disabled: Int[Array, "*stack"]
    """n: each token's n most probable experts are masked before the softmax (paper, table 4)."""
    removed: Bool[Array, "*stack experts"]
    """Experts that no token can choose."""
    random_share: Float[Array, "*stack"]
    """Share of the tokens whose experts are replaced by distinct uniform ones, weights kept."""
    key: PRNGKeyArray
    """One for each sub-layer, of shape [*stack]."""


def no_intervention(moe_layers: int, sublayers: int, experts: int, seed: int = 0) -> Intervention:
    """Return the intervention that changes nothing, to be changed by ``_replace``."""
    stack = (moe_layers, sublayers)
    return Intervention(
        disabled=jnp.zeros(stack, jnp.int32),
        removed=jnp.zeros((*stack, experts), bool),
        random_share=jnp.zeros(stack),
        key=jax.random.split(jax.random.key(seed), stack),
    )


def intervene(scores: Scores, intervention: Intervention) -> Scores:
    """Mask a router's scores in one sub-layer, and say which tokens are routed at random."""
    logits = jnp.where(intervention.removed, -jnp.inf, scores.logits)
    rank = jnp.argsort(jnp.argsort(-logits, axis=-1), axis=-1)
    logits = jnp.where(rank < intervention.disabled, -jnp.inf, logits)
    which, where = jax.random.split(intervention.key)
    noise = jax.random.uniform(where, logits.shape)
    swap = Swap(
        is_swapped=jax.random.uniform(which, logits.shape[:1]) < intervention.random_share,
        order=jnp.where(intervention.removed, -1.0, noise),
    )
    return Scores(logits, jax.nn.softmax(logits, axis=-1), swap)


def swapped(routing: Routing, swap: Swap) -> Routing:
    """Replace the experts of the tokens that are routed at random; unused slots stay unused."""
    num_experts, slots = swap.order.shape[-1], routing.expert_ids.shape[-1]
    _, random_ids = jax.lax.top_k(swap.order, slots)
    replaced = swap.is_swapped[:, None] & (routing.expert_ids < num_experts)
    return routing._replace(expert_ids=jnp.where(replaced, random_ids, routing.expert_ids))
