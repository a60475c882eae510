"""Experts whole on every device: each runs its own tokens through them."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cartesian_moe_jax.moe.dispatch.sort import SortPlan, back_to_tokens, rows_by_expert
from cartesian_moe_jax.moe.routing import Routing


class LocalPlan(NamedTuple):
    """How the rows come back to their tokens."""

    pairs: SortPlan
    dropped: Int[Array, ""]


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
        every = routing.expert_ids.size
        rows, group_sizes, pairs = rows_by_expert(x, routing, num_experts, every)
        return rows, group_sizes, LocalPlan(pairs, jnp.zeros((), jnp.int32))

    def combine(
        self, rows: Float[Array, "rows d_model"], plan: LocalPlan
    ) -> Float[Array, "tokens d_model"]:
        """Return each token's weighted sum over its slots."""
        return back_to_tokens(rows, plan.pairs)
