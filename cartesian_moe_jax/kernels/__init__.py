"""Floor 1: the feed-forward of many experts on rows sorted by expert."""

from cartesian_moe_jax.kernels.activations import ACTIVATIONS, Activation, get_activation
from cartesian_moe_jax.kernels.grouped import BACKENDS, get_backend, grouped_feed_forward
from cartesian_moe_jax.kernels.weights import FeedForwardWeights

__all__ = [
    "ACTIVATIONS",
    "BACKENDS",
    "Activation",
    "FeedForwardWeights",
    "get_activation",
    "get_backend",
    "grouped_feed_forward",
]
