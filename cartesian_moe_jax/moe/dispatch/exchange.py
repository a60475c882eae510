"""The contract of an exchange."""

from typing import Any, Protocol, runtime_checkable

from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from cartesian_moe_jax.moe.routing import Routing


@runtime_checkable
class Exchange(Protocol):
    """Brings tokens to their experts and back. Its verbs run inside ``shard_map``."""

    expert_spec: PartitionSpec
    """How the stacked experts are split over the mesh."""

    def dispatch(
        self, x: Float[Array, "tokens d_model"], routing: Routing, num_experts: int
    ) -> tuple[Float[Array, "rows d_model"], Int[Array, "local_experts"], Any]:
        """Return this device's rows sorted by expert, the rows per expert here, and the plan."""
        ...

    def combine(
        self, rows: Float[Array, "rows d_model"], plan: Any
    ) -> Float[Array, "tokens d_model"]:
        """Return each token's weighted sum over its slots."""
        ...
