"""How evenly each layer's experts are used."""

import numpy as np

from cartesian_moe_jax.study.comparison import Comparison
from cartesian_moe_jax.study.pictures.loads import Loads, draw_loads
from cartesian_moe_jax.study.section import Picture, Section
from cartesian_moe_jax.study.statistics import relative_load, summary
from cartesian_moe_jax.study.tables import NOTHING, code, table

TITLE = "Load of the experts by layer"
NOTE = """\
Busiest / idlest expert of each MoE layer, as a multiple of the even load, on validation text; mean
over seeds. 1 / 1 is perfectly even."""


def load(study: Comparison) -> Section | None:
    """Return a picture and a table; one line if no load was measured."""
    if not study.runs:
        return None
    loads = {variant: found for variant in study.runs if (found := loads_of(study, variant))}
    if not loads:
        return Section(TITLE, ["No load was measured."])
    layers = max(map(len, loads.values()))
    header = ["variant", "sub-layer", *(f"MoE layer {layer}" for layer in range(layers))]
    rows = [row for variant in loads for row in _rows(study, variant, layers)]
    picture = Picture(
        "loads",
        "Load of every expert relative to the even load, by variant and MoE layer",
        "Load of each expert as a multiple of the even load (1), on validation text: a strip for "
        "each MoE layer and sub-layer, a point for each expert and seed, sorted from the busiest.",
        draw_loads(loads),
    )
    return Section(TITLE, [picture, table(header, rows, words=2), NOTE])


def loads_of(study: Comparison, variant: str) -> Loads:
    """Return relative loads [MoE layers][sub-layers][experts of all seeds]; none if unmeasured."""
    uses = [run.routing_use["load"] for run in study.runs[variant].values() if run.routing_use]
    if not uses:
        return []
    return [
        [
            np.concatenate([relative_load(use[layer][sublayer]) for use in uses])
            for sublayer in range(len(uses[0][layer]))
        ]
        for layer in range(len(uses[0]))
    ]


def _rows(study: Comparison, variant: str, layers: int) -> list[list[str]]:
    uses = [run.routing_use["load"] for run in study.runs[variant].values() if run.routing_use]
    rows = []
    for sublayer in range(len(uses[0][0])):
        cells = []
        for layer in range(len(uses[0])):
            seeds = [relative_load(use[layer][sublayer]) for use in uses]
            busiest = summary(seed.max() for seed in seeds).mean
            cells.append(f"{busiest:.2f} / {summary(seed.min() for seed in seeds).mean:.2f}")
        absent = [NOTHING] * (layers - len(cells))
        rows.append([code(variant), str(sublayer), *cells, *absent])
    return rows
