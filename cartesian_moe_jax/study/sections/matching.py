"""How closely the variants match in size."""

from collections.abc import Mapping

from cartesian_moe_jax.study.comparison import Comparison
from cartesian_moe_jax.study.section import Section
from cartesian_moe_jax.study.tables import NOTHING, code, number, table

TITLE = "Matching"
SIZES = ("total_parameters", "active_parameters")
SHAPE = ("d_ff", "d_expert", "num_experts", "sublayers", "top_k")
NOTE = """\
Deviation of each variant from the budget that all are matched to. Variants without routed experts
match the active parameters only."""


def matching(study: Comparison) -> Section | None:
    """Return a table of deviations, and what all runs share; None without any measured run."""
    if not study.runs:
        return None
    setting = next(iter(next(iter(study.runs.values())).values())).setting
    budget = {size: setting.get(size) for size in SIZES}
    header = ["variant", *SHAPE, "total, M", "from budget", "active, M", "from budget"]
    rows = [_row(study, variant, budget) for variant in study.runs]
    wanted = ", ".join(
        f"{size.replace('_', ' ')} {number(value, ',')}" for size, value in budget.items()
    )
    shared = table(
        ["setting", "value"], [[code(k), code(v)] for k, v in sorted(setting.items())], words=2
    )
    blocks = [table(header, rows), f"{NOTE} The budget: {wanted}."]
    return Section(TITLE, [*blocks, "What all compared runs have in common:", shared])


def _row(study: Comparison, variant: str, budget: Mapping[str, int | float | None]) -> list[str]:
    model = next(iter(study.runs[variant].values())).model
    experts = model.get("has_experts", True)
    cells = []
    for size in SIZES:
        matched = experts or size == "active_parameters"
        cells.append(f"{model[size] / 1e6:,.3f}")
        cells.append(_deviation(model[size], budget[size] if matched else None))
    of_experts = SHAPE[1:]
    shape = [
        NOTHING if field in of_experts and not experts else str(model.get(field, NOTHING))
        for field in SHAPE
    ]
    return [code(variant), *shape, *cells]


def _deviation(value: int | float, wanted: int | float | None) -> str:
    return f"{value / wanted - 1:+.2%}" if wanted else NOTHING
