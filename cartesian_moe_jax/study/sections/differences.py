"""Variants against each other, seed by seed."""

from collections.abc import Callable, Mapping

from cartesian_moe_jax.study.comparison import Comparison
from cartesian_moe_jax.study.section import Section
from cartesian_moe_jax.study.statistics import Difference, paired_difference
from cartesian_moe_jax.study.tables import code, interval, table

STAR = "cartesian"

Measure = Callable[[str], Mapping[int, float]]
"""Values by seed of a variant."""


def against(study: Comparison, base: str, measure: Measure) -> dict[str, Difference]:
    """Return each other variant minus ``base``, over the seeds that both have."""
    found = {
        variant: paired_difference(measure(variant), measure(base))
        for variant in study.runs
        if variant != base
    }
    return {variant: difference for variant, difference in found.items() if difference}


def difference_table(study: Comparison, base: str, measure: Measure) -> str:
    """Return a row for each other variant; empty if none shares a seed with ``base``."""
    found = against(study, base, measure)
    if not found:
        return ""
    header = [f"minus {code(base)}", "verdict", "mean", "95% interval", "paired seeds"]
    rows = [
        [code(variant), d.verdict, f"{d.mean:+.4f}", interval(d), str(d.n)]
        for variant, d in found.items()
    ]
    return table(header, rows, words=2)


def differences(study: Comparison) -> Section | None:
    """Return paired differences in validation loss; None without any measured run."""
    if not study.runs:
        return None
    blocks = [_reading(study)]
    for base in dict.fromkeys((study.reference, STAR)):
        rows = difference_table(study, base, study.losses)
        blocks.append(rows or f"No variant shares a seed with {code(base)}: no differences to it.")
    return Section("Paired differences in validation loss", [*blocks, *_outcome(study)])


def _reading(study: Comparison) -> str:
    text = (
        "Variant minus the other, in nats per token, over the seeds that both have; negative is "
        "a lower loss. The verdict is `lower` or `higher` only where the interval of the paired t "
        "test leaves out 0."
    )
    if len(study.seeds) == 1:
        text += " With one seed there is no interval, and nothing is told apart."
    return text


def _outcome(study: Comparison) -> list[str]:
    """Return the one sentence on cartesian against the reference, if both were measured."""
    found = paired_difference(study.losses(STAR), study.losses(study.reference))
    if study.reference == STAR or found is None:
        return []
    pair = f"{code(STAR)} minus {code(study.reference)}"
    if found.low is None:
        text = f"{pair} is {found.mean:+.4f} nats per token in one pair: too few to say anything."
    elif found.verdict == "not told apart":
        text = (
            f"This study does not tell {code(STAR)} and {code(study.reference)} apart: their "
            f"difference is {found.mean:+.4f} nats per token, and its interval, "
            f"{interval(found)}, holds 0."
        )
    else:
        text = (
            f"In this study the validation loss of {code(STAR)} is {found.verdict} than that of "
            f"{code(study.reference)}: {pair} is {found.mean:+.4f} nats per token, with the "
            f"interval {interval(found)} over {found.n} paired seeds."
        )
    return [f"Outcome: {text}"]
