"""Tokens are gathered over the expert axis, local experts run, updates are scattered."""

import dataclasses

import jax
from jaxtyping import Array, Float, Int

from cartesian_moe_jax.moe.dispatch.copies import only_here
from cartesian_moe_jax.moe.dispatch.exchange import bound
from cartesian_moe_jax.moe.dispatch.sort import LocalPlan, back_to_tokens, rows_by_expert
from cartesian_moe_jax.moe.routing import Routing


@dataclasses.dataclass(frozen=True)
class GatherExchange:
    """All-gather the tokens over ``axis``, run the experts that live here, reduce-scatter.

    Wins at small expert degree: every device sees every token of the axis.
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
    ) -> tuple[Float[Array, "rows d_model"], Int[Array, "local_experts"], LocalPlan]:
        """Sort the axis's tokens by local expert; slots of other devices' experts go unused."""
        here = num_experts // jax.lax.axis_size(self.axis)
        pairs = routing.expert_ids.size
        x, *routing = (jax.lax.all_gather(a, self.axis, axis=0, tiled=True) for a in (x, *routing))
        routing = only_here(Routing(*routing), self.axis, here)
        most = routing.expert_ids.size
        limit = bound(pairs, most, self.bucket_factor * bounded)
        return rows_by_expert(x, routing, here, limit)

    def combine(
        self, rows: Float[Array, "rows d_model"], plan: LocalPlan
    ) -> Float[Array, "tokens d_model"]:
        """Sum each token's update over the devices that hold its experts."""
        partial = back_to_tokens(rows, plan)
        return jax.lax.psum_scatter(partial, self.axis, scatter_dimension=0, tiled=True)
