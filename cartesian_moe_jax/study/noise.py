"""How far results scatter with the seed, among variants in like settings."""

import itertools
from typing import NamedTuple

from cartesian_moe_jax.study.comparison import Comparison, changes_of
from cartesian_moe_jax.study.statistics import (
    Pooled,
    paired_difference,
    pooled_sd,
    smallest_gap,
    summary,
)


class Noise(NamedTuple):
    """Of the validation loss of the variants that changed the same fields; nats per token."""

    changes: str
    """FIELD=VALUE+...; empty: the methods as they are."""
    variants: int
    """Those that share two seeds with another."""
    seeds: Pooled
    """Standard deviation of one variant from seed to seed."""
    paired: Pooled
    """That of the difference of two variants with the same seed."""
    pairs: int
    """Of variants, that ``paired`` was taken over."""
    counts: list[int]
    """Numbers of seeds that pairs share."""

    def smallest_gaps(self) -> dict[int, float]:
        """Return, by the number of paired seeds, the gap that is likely to be found."""
        return {n: smallest_gap(self.paired.sd, n) for n in self.counts}


def noise_of(study: Comparison) -> list[Noise]:
    """Return the noise of each group of variants in like settings that share two seeds."""
    groups: dict[frozenset[str], list[str]] = {}
    for variant in study.runs:
        groups.setdefault(changes_of(variant), []).append(variant)
    found = [_noise(study, variants) for variants in groups.values()]
    return [noise for noise in found if noise is not None]


def _noise(study: Comparison, variants: list[str]) -> Noise | None:
    differences = {
        pair: difference
        for pair in itertools.combinations(variants, 2)
        if (difference := paired_difference(*map(study.losses, pair))) and difference.sd is not None
    }
    paired = pooled_sd((d.sd, d.n) for d in differences.values())
    if paired is None:
        return None
    used = list(dict.fromkeys(variant for pair in differences for variant in pair))
    losses = [summary(study.losses(variant).values()) for variant in used]
    seeds = pooled_sd((each.sd, each.n) for each in losses)
    counts = sorted({d.n for d in differences.values()})
    changes = variants[0].partition("+")[2]
    return Noise(changes, len(used), seeds, paired, len(differences), counts)
