"""How closely variants match in size, as the cells of a table."""

from collections.abc import Mapping
from typing import Any

from cartesian_moe_jax.study.tables import NOTHING

SIZES = ("total_parameters", "active_parameters")
OF_MOE_LAYERS = ("d_expert", "sublayers")
"""What also the dense feed-forwards have that stand in place of MoE layers."""
OF_EXPERTS = ("num_experts", "top_k")
HEADER = (
    "variant",
    "d_ff",
    *OF_MOE_LAYERS,
    *OF_EXPERTS,
    "total, M",
    "from budget",
    "active, M",
    "from budget",
)


def matched_cells(model: Mapping[str, Any], budget: Mapping[str, Any]) -> list[str]:
    """Return what stands behind a variant's name under HEADER.

    ``model`` is as ``Record.model`` says, ``budget`` is by the names in SIZES. Without routed
    experts a variant is matched in its active parameters alone.
    """
    experts = model.get("has_experts", True)
    shown = {
        "d_ff": True,
        **dict.fromkeys(OF_MOE_LAYERS, model.get("in_place", experts)),
        **dict.fromkeys(OF_EXPERTS, experts),
    }
    cells = [str(model.get(k, NOTHING)) if there else NOTHING for k, there in shown.items()]
    for size in SIZES:
        matched = experts or size == "active_parameters"
        cells.append(f"{model[size] / 1e6:,.3f}")
        cells.append(_deviation(model[size], budget.get(size) if matched else None))
    return cells


def _deviation(value: int | float, wanted: int | float | None) -> str:
    return f"{value / wanted - 1:+.2%}" if wanted else NOTHING
