"""Which of the composed experts are used: pairs of experts of successive sub-layers."""

import re

import numpy as np
from jaxtyping import Float

from cartesian_moe_jax.study.comparison import Comparison
from cartesian_moe_jax.study.pictures.pairs import Map, draw_pairs
from cartesian_moe_jax.study.record import Record
from cartesian_moe_jax.study.section import Picture, Section
from cartesian_moe_jax.study.statistics import effective_number, independent_number, summary
from cartesian_moe_jax.study.tables import code, mean_and_range, table

TITLE = "Composed experts in use"
HEADER = (
    "variant",
    "sub-layers",
    "MoE layer",
    "seeds",
    "composed experts",
    "effective number",
    "if independent",
    "ratio",
)
NOTE = """\
Effective number: exp of the entropy of the shares of all pairs (first, second expert), on
validation text; it is the number of composed experts where all are used alike, and 1 where one is.
If independent: the same, had tokens chosen the second expert without regard to the first (the
product of both marginals); the ratio of both is 1 where the choices do not depend on each
other, and falls the more they do. Mean (lowest..highest seed)."""


def pairs(study: Comparison) -> Section | None:
    """Return heat maps and a table; one line if no variant has pairs."""
    if not study.runs:
        return None
    measured = [
        variant for variant, runs in study.runs.items() if any(map(_has_pairs, runs.values()))
    ]
    if not measured:
        return Section(TITLE, ["No variant with several sub-layers was measured."])
    rows = [row for variant in measured for row in _rows(study, variant)]
    pictures = [_picture(study, variant) for variant in measured]
    return Section(TITLE, [table(HEADER, rows, words=2), NOTE, *pictures])


def _has_pairs(run: Record) -> bool:
    return any(run.routing_use["pairs"]) if run.routing_use else False


def _shares(run: Record, layer: int, step: int) -> Float[np.ndarray, "first second"]:
    return np.asarray(run.routing_use["pairs"][layer][step], np.float64)


def _rows(study: Comparison, variant: str) -> list[list[str]]:
    runs = [run for run in study.runs[variant].values() if _has_pairs(run)]
    layers = runs[0].routing_use["pairs"]
    rows = []
    for step in range(len(layers[0])):
        for layer in range(len(layers)):
            seeds = [_shares(run, layer, step) for run in runs]
            used = [effective_number(shares) for shares in seeds]
            free = [independent_number(shares) for shares in seeds]
            rows.append(
                [
                    code(variant),
                    f"{step} and {step + 1}",
                    str(layer),
                    str(len(seeds)),
                    str(seeds[0].size),
                    mean_and_range(summary(used), ".1f"),
                    mean_and_range(summary(free), ".1f"),
                    f"{summary(a / b for a, b in zip(used, free, strict=True)).mean:.3f}",
                ]
            )
    return rows


def _picture(study: Comparison, variant: str) -> Picture:
    seed, run = next(item for item in study.runs[variant].items() if _has_pairs(item[1]))
    layers = run.routing_use["pairs"]
    several = len(layers[0]) > 1
    maps = [
        Map(
            f"layer {layer}" + (f", {step} and {step + 1}" if several else ""),
            _shares(run, layer, step),
        )
        for layer in range(len(layers))
        for step in range(len(layers[layer]))
    ]
    return Picture(
        f"pairs_{re.sub(r'[^A-Za-z0-9]+', '_', variant)}",
        f"How often {variant} uses each pair of experts of successive sub-layers",
        f"{variant}, seed {seed}: share of the pairs of first (row) and second (column) expert, as "
        "a multiple of the even share, for each MoE layer"
        + (" and each two successive sub-layers." if several else "."),
        draw_pairs(maps),
    )
