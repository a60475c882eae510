"""The scores of a learned linear router."""

import jax
from jaxtyping import Array, Float

from cartesian_moe_jax.moe.routers.float32_product import float32_product
from cartesian_moe_jax.moe.routing import Scores


def linear_scores(
    x: Float[Array, "tokens d_model"], weight: Float[Array, "d_model experts"]
) -> Scores:
    """p = softmax(x W) over all experts, in float32 whatever x's dtype."""
    logits = float32_product(x, weight)
    return Scores(logits, jax.nn.softmax(logits, axis=-1))
