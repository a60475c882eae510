"""Costs as a table for people."""

from collections.abc import Mapping

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
    rows = [HEADER, *(_cells(name, cost) for name, cost in costs.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


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
