"""Costs as a table for people."""

from collections.abc import Mapping

from cartesian_moe_jax.columns import columns
from cartesian_moe_jax.models.cost import Cost

HEADER = (
    "",
    "parameters",
    "active",
    "forward GFLOPs/token",
    "training GFLOPs/token",
    "optimizer GB",
    "checkpoint GB",
)


def cost_table(costs: Mapping[str, Cost]) -> str:
    """Return a row for each cost, columns aligned; GB are 10^9 bytes."""
    return columns([HEADER, *(_cells(name, cost) for name, cost in costs.items())])


def _cells(name: str, cost: Cost) -> tuple[str, ...]:
    return (
        name,
        f"{cost.total_parameters:,}",
        f"{cost.active_parameters:,}",
        f"{cost.forward_flops / 1e9:.4f}",
        f"{cost.training_flops / 1e9:.4f}",
        f"{cost.optimizer_bytes / 1e9:.3f}",
        f"{cost.checkpoint_bytes / 1e9:.3f}",
    )
