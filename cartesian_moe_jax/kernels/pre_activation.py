"""What enters the activation of a feed-forward network."""

from typing import NamedTuple

from jaxtyping import Array, Float


class PreActivation(NamedTuple):
    """What enters the activation; kept, so that the backward pass need not compute it again."""

    gate: Float[Array, "rows d_expert"] | None
    up: Float[Array, "rows d_expert"]
