"""Experts split over a mesh axis: tokens are gathered, local experts run, updates scattered."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from cartesian_moe_jax.moe.dispatch.local import LocalExchange
from cartesian_moe_jax.moe.dispatch.sort import SortPlan
from cartesian_moe_jax.moe.routing import Routing


@dataclasses.dataclass(frozen=True)
class GatherExchange:
    """All-gather the tokens over ``axis``, run the experts that live here, reduce-scatter.

    Drops nothing. Wins at small expert degree; each device holds the rows of the whole axis.
    """

    axis: str

    @property
    def expert_spec(self) -> PartitionSpec:
        """The experts are split over ``axis``."""
        return PartitionSpec(self.axis)

    def dispatch(
        self, x: Float[Array, "tokens d_model"], routing: Routing, num_experts: int
    ) -> tuple[Float[Array, "rows d_model"], Int[Array, "local_experts"], SortPlan]:
        """Sort the axis's tokens by local expert; slots of other devices' experts go unused."""
        here = num_experts // jax.lax.axis_size(self.axis)
        x, ids, weights, priority = (
            jax.lax.all_gather(a, self.axis, axis=0, tiled=True) for a in (x, *routing)
        )
        local_ids = ids - jax.lax.axis_index(self.axis) * here
        is_here = (local_ids >= 0) & (local_ids < here)
        routing = Routing(
            jnp.where(is_here, local_ids, here), jnp.where(is_here, weights, 0), priority
        )
        return LocalExchange().dispatch(x, routing, here)

    def combine(
        self, rows: Float[Array, "rows d_model"], plan: SortPlan
    ) -> Float[Array, "tokens d_model"]:
        """Sum each token's update over the devices that hold its experts."""
        partial = LocalExchange().combine(rows, plan)
        return jax.lax.psum_scatter(partial, self.axis, scatter_dimension=0, tiled=True)
