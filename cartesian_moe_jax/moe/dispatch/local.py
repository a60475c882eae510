"""Experts replicated: each device runs its own tokens through all experts."""

import dataclasses
from typing import ClassVar

from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from cartesian_moe_jax.moe.dispatch.sort import (
    SortPlan,
    gather_rows,
    sort_by_expert,
    weighted_sum,
)
from cartesian_moe_jax.moe.routing import Routing


@dataclasses.dataclass(frozen=True)
class LocalExchange:
    """Nothing crosses devices: tokens are sorted by expert where they are. Drops nothing."""

    expert_spec: ClassVar[PartitionSpec] = PartitionSpec()

    def dispatch(
        self, x: Float[Array, "tokens d_model"], routing: Routing, num_experts: int
    ) -> tuple[Float[Array, "rows d_model"], Int[Array, "experts"], SortPlan]:
        """Sort one copy of x per slot by expert; rows of unused slots come last."""
        order, position, group_sizes = sort_by_expert(routing.expert_ids, num_experts)
        rows = gather_rows(x, order, position)
        return rows, group_sizes, SortPlan(order, position, routing.weights)

    def combine(
        self, rows: Float[Array, "rows d_model"], plan: SortPlan
    ) -> Float[Array, "tokens d_model"]:
        """Return each token's weighted sum over its slots."""
        return weighted_sum(rows, plan.weights, plan.order, plan.position)
