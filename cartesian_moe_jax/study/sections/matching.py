"""How closely the variants match in size."""

from collections.abc import Mapping
from typing import Any

from cartesian_moe_jax.study.comparison import Comparison
from cartesian_moe_jax.study.costs import costs_of, most, varies
from cartesian_moe_jax.study.effective import shared_fields
from cartesian_moe_jax.study.matched import HEADER, SIZES, matched_cells
from cartesian_moe_jax.study.section import Section
from cartesian_moe_jax.study.tables import code, number, table

TITLE = "Matching"
NOTE = """\
Deviation of each variant from the budget that all are matched to. `d_expert` is the width of each
expert, or of the dense feed-forwards in place of the MoE layers. Variants without routed experts
match the active parameters only."""
VARYING = """\
`{name}` chooses a varying number of experts: its active parameters are those of the
mean number that tokens were seen to choose; at most a token uses {most:,.3f} million."""
SHARED = """\
What the configs of all compared runs have in common. What differs between them, such as widths and
rates, is not in this table."""


def matching(study: Comparison) -> Section | None:
    """Return a table of deviations, and what all runs share; None without any measured run."""
    if not study.runs:
        return None
    first = {variant: next(iter(runs.values())) for variant, runs in study.runs.items()}
    setting = next(iter(first.values())).setting
    rows = [_row(study, variant, setting) for variant in study.runs]
    varying = [
        VARYING.format(name=variant, most=most(run).active_parameters / 1e6)
        for variant, run in first.items()
        if varies(run)
    ]
    wanted = ", ".join(
        f"{size.replace('_', ' ')} {number(setting.get(size), ',')}" for size in SIZES
    )
    blocks = [table(HEADER, rows), f"{NOTE} The budget: {wanted}.", *varying]
    return Section(TITLE, [*blocks, SHARED, _shared(study)])


def _row(study: Comparison, variant: str, budget: Mapping[str, Any]) -> list[str]:
    runs = study.runs[variant]
    measured = costs_of(runs)._asdict()
    return [code(variant), *matched_cells(next(iter(runs.values())).model | measured, budget)]


def _shared(study: Comparison) -> str:
    runs = [run for by_seed in study.runs.values() for run in by_seed.values()]
    rows = [
        [code(field), "(empty)" if value == "" else code(value)]
        for field, value in sorted(shared_fields(runs).items())
    ]
    return table(["setting", "value"], rows, words=2)
