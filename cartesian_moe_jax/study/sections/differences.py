"""Variants against each other, seed by seed."""

from cartesian_moe_jax.study.comparison import Comparison
from cartesian_moe_jax.study.family import Family, family_of, loss_families
from cartesian_moe_jax.study.section import Section
from cartesian_moe_jax.study.tables import code, interval, probability, table

STAR = "cartesian"
READING = """\
Variant minus the base, in nats per token, over the seeds that both have; negative is a lower loss.
The verdict is `lower` or `higher` only where the 95% interval of the paired t test leaves out 0.
`Holm` beside it is the verdict after Holm's correction for all comparisons of the same table that
have an interval: its p is below 0.05. A table against a base with changed fields has the variants
with the same fields changed alone."""
ONE_SEED = "With one seed there is no interval, and nothing is told apart."


def differences(study: Comparison) -> Section | None:
    """Return paired differences in validation loss; None without any measured run."""
    if not study.runs:
        return None
    blocks = [f"{READING} {ONE_SEED}" if len(study.seeds) == 1 else READING]
    for found in loss_families(study):
        none = f"No variant shares a seed with {code(found.base)}: no differences to it."
        blocks.append(family_table(found) or none)
    return Section("Paired differences in validation loss", [*blocks, *_outcome(study)])


def family_table(family: Family) -> str:
    """Return a row for each comparison; empty if there is none."""
    if not family.differences:
        return ""
    header = [f"minus {code(family.base)}", "verdict", "Holm", "mean", "95% interval", "p"]
    adjusted = family.adjusted()
    rows = [
        [
            code(variant),
            d.verdict,
            family.adjusted_verdict(variant),
            f"{d.mean:+.4f}",
            interval(d),
            probability(d.p),
            probability(adjusted.get(variant)),
            str(d.n),
        ]
        for variant, d in family.differences.items()
    ]
    return table([*header, "p, Holm", "paired seeds"], rows, words=3)


def _outcome(study: Comparison) -> list[str]:
    """Return the one sentence on cartesian against the reference, if both were measured."""
    family = family_of(study, study.reference, study.losses)
    found = family.differences.get(STAR)
    if found is None:
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
            f"interval {interval(found)} over {found.n} paired seeds. After Holm's correction "
            f"for the {family.size} comparisons of its table: {family.adjusted_verdict(STAR)}."
        )
    return [f"Outcome: {text}"]
