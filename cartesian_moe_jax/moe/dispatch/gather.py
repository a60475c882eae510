"""Tokens are gathered over the expert axis, local experts run, updates are scattered."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cartesian_moe_jax.moe.dispatch.copies import only_here
from cartesian_moe_jax.moe.dispatch.exchange import bound
from cartesian_moe_jax.moe.dispatch.sort import SortPlan, back_to_tokens, rows_by_expert
from cartesian_moe_jax.moe.dispatch.survivors import (
    Survivors,
    all_survive,
    fitting,
    survivors_of,
)
from cartesian_moe_jax.moe.routing import Routing


class GatherPlan(NamedTuple):
    """How updates come back to the devices of their tokens."""

    here: SortPlan
    survivors: Survivors

    @property
    def dropped(self) -> Int[Array, ""]:
        """Pairs of this device's tokens that no expert computes."""
        return self.survivors.dropped


@dataclasses.dataclass(frozen=True)
class GatherExchange:
    """All-gather the tokens over ``axis``, run the experts that live here, reduce-scatter.

    Wins at small expert degree: every device sees every token of the axis. In training a device
    runs ``bucket_factor`` even shares of pairs; those beyond, of least priority, are dropped and
    their weights given to the token's other experts.
    """

    axis: str
    bucket_factor: float = 0.0

    def dispatch(
        self,
        x: Float[Array, "tokens d_model"],
        routing: Routing,
        num_experts: int,
        *,
        bounded: bool = False,
    ) -> tuple[Float[Array, "rows d_model"], Int[Array, "local_experts"], GatherPlan]:
        """Sort the axis's tokens by local expert; slots of other devices' experts go unused."""
        here = num_experts // jax.lax.axis_size(self.axis)
        pairs, factor = routing.expert_ids.size, self.bucket_factor * bounded
        x, *every = (jax.lax.all_gather(a, self.axis, axis=0, tiled=True) for a in (x, *routing))
        every = only_here(Routing(*every), self.axis, here)
        limit = bound(pairs, every.expert_ids.size, factor)
        every = fitting(every, here, limit)
        survivors = all_survive()
        if limit < every.expert_ids.size:
            is_computed = self._told(every.expert_ids < here)
            survivors = survivors_of(routing, is_computed, num_experts)
        rows, group_sizes, plan = rows_by_expert(x, every, here, limit)
        return rows, group_sizes, GatherPlan(plan, survivors)

    def combine(
        self, rows: Float[Array, "rows d_model"], plan: GatherPlan
    ) -> Float[Array, "tokens d_model"]:
        """Sum each token's update over the devices that hold its experts."""
        update = self._summed(back_to_tokens(rows, plan.here))
        return plan.survivors.rescaled(update)

    def _told(self, here: Bool[Array, "tokens slots"]) -> Bool[Array, "local_tokens slots"]:
        """Say of this device's own pairs which are computed, here or on another device."""
        return self._summed(here.astype(jnp.float32)) > 0

    def _summed(self, partial: Float[Array, "tokens any"]) -> Float[Array, "local_tokens any"]:
        return jax.lax.psum_scatter(partial, self.axis, scatter_dimension=0, tiled=True)
