"""The contract of an exchange."""

import math
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float, Int

from cartesian_moe_jax.moe.routing import Routing


class Plan(Protocol):
    """How the rows come back: an exchange's own, but for what all of them count."""

    dropped: Int[Array, ""]
    """Pairs (token, expert) that no expert computes, of those counted on this device."""


@runtime_checkable
class Exchange(Protocol):
    """Brings tokens to their experts and back. Its verbs run inside ``shard_map``."""

    axis: str | None
    """The mesh axis that tokens move along, over which the experts are split; None: none."""

    def dispatch(
        self,
        x: Float[Array, "tokens d_model"],
        routing: Routing,
        num_experts: int,
        *,
        bounded: bool,
    ) -> tuple[Float[Array, "rows d_model"], Int[Array, "local_experts"], Any]:
        """Return this device's rows sorted by expert, the rows per expert here, and the Plan.

        ``bounded``: hold to the buffers of training, and drop what overflows; else drop nothing.
        """
        ...

    def combine(
        self, rows: Float[Array, "rows d_model"], plan: Any
    ) -> Float[Array, "tokens d_model"]:
        """Return each token's weighted sum over its slots."""
        ...


def bound(even_share: int | float, most: int, factor: int | float) -> int:
    """Return the rows of a buffer: ``factor`` even shares, all that can come for a factor of 0."""
    return min(most, math.ceil(factor * even_share)) if factor else most
