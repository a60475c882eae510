"""The computations that speed depends on: experts on rows sorted by expert, attention, and what
routers choose by."""

from cartesian_moe_jax.kernels.activations import ACTIVATIONS, Activation, get_activation
from cartesian_moe_jax.kernels.attention_residuals import is_attention_residual
from cartesian_moe_jax.kernels.cached_attention import cached_attention
from cartesian_moe_jax.kernels.causal_attention import (
    ATTENTIONS,
    CausalAttention,
    best_causal_attention,
)
from cartesian_moe_jax.kernels.grouped import BACKENDS, get_backend, grouped_feed_forward
from cartesian_moe_jax.kernels.largest import largest
from cartesian_moe_jax.kernels.pieces import product_by_pieces
from cartesian_moe_jax.kernels.weights import FeedForwardWeights

__all__ = [
    "ACTIVATIONS",
    "ATTENTIONS",
    "BACKENDS",
    "Activation",
    "CausalAttention",
    "FeedForwardWeights",
    "best_causal_attention",
    "cached_attention",
    "get_activation",
    "get_backend",
    "grouped_feed_forward",
    "is_attention_residual",
    "largest",
    "product_by_pieces",
]
