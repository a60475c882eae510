"""The stacked weights of a set of feed-forward experts."""

from typing import NamedTuple

from jaxtyping import Array, Float


class FeedForwardWeights(NamedTuple):
    """Weights of `experts` feed-forward networks of equal shape, stacked on the first axis."""

    gate: Float[Array, "experts d_model d_expert"] | None
    """Gate projection; None where the activation is not gated."""
    up: Float[Array, "experts d_model d_expert"]
    """Up projection."""
    down: Float[Array, "experts d_expert d_model"]
    """Down projection."""
