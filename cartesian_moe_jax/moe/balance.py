"""The auxiliary losses of a router, and the statistics they are made of."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cartesian_moe_jax.moe.routing import RoutingStats, Scores


def count_choices(
    expert_ids: Int[Array, "tokens slots"], num_experts: int
) -> Float[Array, "experts"]:
    """Count how often each expert is chosen; unused slots (id = num_experts) count nowhere."""
    chosen = expert_ids.reshape(-1, 1) == jnp.arange(num_experts)
    return jnp.sum(chosen, axis=0, dtype=jnp.float32)


def load_balance_loss(
    mean_probability: Float[Array, "experts"], load: Float[Array, "experts"]
) -> Float[Array, ""]:
    """(E / k) sum_e P_e f_e, with k = sum_e f_e the mean number chosen: 1 when uniform."""
    num_experts = load.shape[0]
    return num_experts * jnp.vdot(mean_probability, load) / jnp.maximum(jnp.sum(load), 1e-9)


def z_loss(logits: Float[Array, "tokens experts"]) -> Float[Array, ""]:
    """Mean over tokens of logsumexp(logits)^2 (ST-MoE, arXiv 2202.08906, eq. 5)."""
    return jnp.mean(jnp.square(jax.nn.logsumexp(logits, axis=-1)))


def routing_stats(
    scores: Scores, load: Float[Array, "experts"], dropped: Float[Array, ""]
) -> RoutingStats:
    """Summarise one sub-layer's scores; ``load`` is counted where the choice was made."""
    probabilities = scores.probabilities
    mean_probability = jnp.mean(probabilities, axis=0)
    entropy = -jnp.sum(jax.scipy.special.xlogy(probabilities, probabilities), axis=-1)
    return RoutingStats(
        load=load,
        mean_probability=mean_probability,
        balance_loss=load_balance_loss(mean_probability, load),
        z_loss=z_loss(scores.logits),
        entropy=jnp.mean(jax.lax.stop_gradient(entropy)),
        dropped=dropped,
    )
