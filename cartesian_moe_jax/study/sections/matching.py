"""How closely the variants match in size."""

from cartesian_moe_jax.study.comparison import Comparison
from cartesian_moe_jax.study.matched import HEADER, SIZES, matched_cells
from cartesian_moe_jax.study.section import Section
from cartesian_moe_jax.study.tables import code, number, table

TITLE = "Matching"
NOTE = """\
Deviation of each variant from the budget that all are matched to. `d_expert` is the width of each
expert, or of the dense feed-forwards in place of the MoE layers. Variants without routed experts
match the active parameters only."""


def matching(study: Comparison) -> Section | None:
    """Return a table of deviations, and what all runs share; None without any measured run."""
    if not study.runs:
        return None
    first = {variant: next(iter(runs.values())) for variant, runs in study.runs.items()}
    setting = next(iter(first.values())).setting
    rows = [[code(v), *matched_cells(run.model, setting)] for v, run in first.items()]
    wanted = ", ".join(
        f"{size.replace('_', ' ')} {number(setting.get(size), ',')}" for size in SIZES
    )
    shared = table(
        ["setting", "value"], [[code(k), code(v)] for k, v in sorted(setting.items())], words=2
    )
    blocks = [table(HEADER, rows), f"{NOTE} The budget: {wanted}."]
    return Section(TITLE, [*blocks, "What all compared runs have in common:", shared])
