"""Comparisons with one base, whose verdicts are read together."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from cartesian_moe_jax.study.comparison import Comparison, changes_of
from cartesian_moe_jax.study.statistics import (
    LEVEL,
    Difference,
    direction,
    holm,
    paired_difference,
)

Measure = Callable[[str], Mapping[int, float]]
"""Values by seed of a variant."""


class Family(NamedTuple):
    """What one table shows."""

    base: str
    differences: Mapping[str, Difference]
    """variant -> variant minus base."""

    @property
    def size(self) -> int:
        """The comparisons that have an interval, and so a verdict."""
        return sum(d.p is not None for d in self.differences.values())

    def adjusted(self) -> dict[str, float]:
        """Return Holm's p values, for as many comparisons as have one."""
        return holm({v: d.p for v, d in self.differences.items() if d.p is not None})

    def adjusted_verdict(self, variant: str) -> str:
        """Return the verdict on a variant that Holm's correction leaves."""
        difference = self.differences[variant]
        return direction(difference.mean, self.adjusted().get(variant, 1.0) < LEVEL)


def family_of(study: Comparison, base: str, measure: Measure) -> Family:
    """Return each other variant minus ``base``, over the seeds that both have.

    With a base that has changed fields, those alone that changed the same, if there are any:
    variants of other settings would say more of the setting than of the method.
    """
    others = [variant for variant in study.runs if variant != base]
    if changes_of(base):
        alike = [variant for variant in others if changes_of(variant) == changes_of(base)]
        others = alike or others
    found = {variant: paired_difference(measure(variant), measure(base)) for variant in others}
    return Family(base, {variant: d for variant, d in found.items() if d is not None})


def loss_families(study: Comparison) -> list[Family]:
    """Return the comparisons in validation loss, with each base in turn."""
    return [family_of(study, base, study.losses) for base in study.bases]
