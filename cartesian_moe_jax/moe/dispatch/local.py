"""Experts whole on every device: each runs its own tokens through them."""

import dataclasses
from typing import ClassVar

from jaxtyping import Array, Float, Int

from cartesian_moe_jax.moe.dispatch.sort import LocalPlan, back_to_tokens, rows_by_expert
from cartesian_moe_jax.moe.routing import Routing


@dataclasses.dataclass(frozen=True)
class LocalExchange:
    """Nothing crosses devices: tokens are sorted by expert where they are. Drops nothing."""

    axis: ClassVar[None] = None

    def dispatch(
        self,
        x: Float[Array, "tokens d_model"],
        routing: Routing,
        num_experts: int,
        *,
        bounded: bool = False,
    ) -> tuple[Float[Array, "rows d_model"], Int[Array, "experts"], LocalPlan]:
        """Sort one copy of x per slot by expert; rows of unused slots come last."""
        return rows_by_expert(x, routing, num_experts, routing.expert_ids.size)

    def combine(
        self, rows: Float[Array, "rows d_model"], plan: LocalPlan
    ) -> Float[Array, "tokens d_model"]:
        """Return each token's weighted sum over its slots."""
        return back_to_tokens(rows, plan)
