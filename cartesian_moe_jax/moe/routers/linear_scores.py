"""The scores of a learned linear router."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cartesian_moe_jax.moe.routing import Scores


def linear_scores(
    x: Float[Array, "tokens d_model"], weight: Float[Array, "d_model experts"]
) -> Scores:
    """p = softmax(x W) over all experts, in float32 whatever x's dtype."""
    logits = jnp.dot(x.astype(jnp.float32), weight, precision=jax.lax.Precision.HIGHEST)
    return Scores(logits, jax.nn.softmax(logits, axis=-1))
