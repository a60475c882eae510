"""What was compared, and how small a difference it could show."""

import math
from collections.abc import Mapping, Sequence

from cartesian_moe_jax.study import published
from cartesian_moe_jax.study.comparison import Comparison
from cartesian_moe_jax.study.family import loss_families
from cartesian_moe_jax.study.noise import Noise, noise_of
from cartesian_moe_jax.study.section import Section
from cartesian_moe_jax.study.sections.robustness import harm_family
from cartesian_moe_jax.study.sections.shared_expert import shared_expert_difference
from cartesian_moe_jax.study.statistics import LEVEL, POWER, summary
from cartesian_moe_jax.study.tables import bullets, code, number, plain, table

RIVALS = ("smoe_share", "fine_grained")
"""What the paper's gap is named against."""


def about_list(lines: Mapping[str, str]) -> str:
    """Return the labelled texts as a list; a text of several lines becomes a list below it."""
    found = []
    for label, text in lines.items():
        first, *more = text.strip().splitlines() or [""]
        found.append(f"- {plain(label)}: {plain(first)}")
        found.extend(f"    - {plain(line)}" for line in more)
    return "\n".join(found)


def limits(study: Comparison) -> Section:
    """Return what the number of seeds and tokens allows to be said."""
    if not study.runs:
        return Section(TITLE, ["No compared run was measured, so nothing is said of the methods."])
    several = any(len(runs) > 1 for runs in study.runs.values())
    noise = _noise(study) if several else [bullets([ONE_SEED])]
    facts = bullets([_size(study), *_tokens(study), ORDER])
    return Section(TITLE, [facts, *noise])


def _size(study: Comparison) -> str:
    counts = summary(len(runs) for runs in study.runs.values())
    seeds = f"{counts.low:g}" if counts.low == counts.high else f"{counts.low:g} to {counts.high:g}"
    noun = "seed" if counts.high == 1 else "seeds"
    return f"Compared: {len(study.runs)} variants, with {seeds} {noun} each."


def _tokens(study: Comparison) -> list[str]:
    tokens = summary(r.tokens for runs in study.runs.values() for r in runs.values())
    if not tokens.high:
        return []
    each = f"{tokens.low / 1e6:,.2f}"
    if tokens.high > tokens.low:
        each += f" to {tokens.high / 1e6:,.2f}"
    line = f"Each run was trained on {each} million tokens."
    if tokens.high < published.TOKENS:
        line += (
            f" The paper's runs saw 100,000 million, {published.TOKENS / tokens.high:,.0f} times "
            "as many. A short run shows how fast a method learns, not where it ends: the results "
            "here hold for this setting, and neither confirm nor refute the paper's tables."
        )
    return [line]


def _noise(study: Comparison) -> list[str]:
    """Return what several seeds tell of the noise."""
    groups = noise_of(study)
    if not groups:
        return ["There are no paired seeds, so no difference has an interval."]
    return [_noise_table(groups), f"{POOLED} {_published()}", bullets([_verdicts(study), SPAN])]


def _noise_table(groups: Sequence[Noise]) -> str:
    counts = sorted({n for group in groups for n in group.counts})
    header = [
        "fields changed",
        "variants",
        "sd from seed to seed",
        "sd of paired differences",
        "pairs of variants",
        *(f"smallest gap, {n} paired seeds" for n in counts),
    ]
    rows = []
    for group in groups:
        gaps = group.smallest_gaps()
        rows.append(
            [
                code(group.changes) if group.changes else "none",
                str(group.variants),
                f"{group.seeds.sd:.4f}",
                f"{group.paired.sd:.4f}",
                str(group.pairs),
                *(number(gaps.get(n)) for n in counts),
            ]
        )
    return table(header, rows)


def _verdicts(study: Comparison) -> str:
    """Return how many verdicts chance would give, were nothing different."""
    families = [*loss_families(study), harm_family(study)]
    shared = shared_expert_difference(study)
    count = sum(family.size for family in families) + bool(shared and shared.p is not None)
    tables = sum(family.size > 0 for family in families)
    return (
        f"This report has {count} intervals with a verdict, in {tables} tables. Each is at "
        f"the {1 - LEVEL:.0%} level on its own: with no true difference, {count * LEVEL:.2g} of "
        f"{count} would be called lower or higher on average. (Some pairs stand in two tables.) "
        "The verdicts and p values under Holm are corrected for the comparisons of their own "
        "table, not for the number of tables."
    )


def _published() -> str:
    """Return the paper's own gaps, in the unit of the loss."""
    gaps = [
        f"{math.log(other / own):.3f} ({size.title()}, to {code(rival)})"
        for size in ("base", "large")
        for rival in RIVALS
        for own in [getattr(published.TABLE_1["cartesian"], size)]
        for other in [getattr(published.TABLE_1[rival], size)]
    ]
    return f"For comparison, the gaps of the paper's table 1 are {', '.join(gaps)}."


POOLED = f"""\
Standard deviations (sd) of the validation loss, nats per token, pooled over variants in like
settings: those with the same fields changed. This assumes that all variants of a row scatter alike,
and so do all pairs of them; pairs that share a variant are not independent, so that an sd is less
sure than their number suggests. The smallest gap is the true difference that one paired t test at
the {LEVEL:.0%} level, without correction, would find with probability {POWER:g}; smaller ones are
found less often."""
TITLE = "What this can and cannot say"
ORDER = "Rows are always in one fixed order of the methods, which says nothing about their results."
ONE_SEED = (
    "There is one seed only. Nothing here says how much another seed would change a number, so "
    "there are no intervals and no verdicts, and the methods are not ranked."
)
SPAN = (
    "The intervals cover what changes with the seed: initial values and the order of the data. "
    "They do not cover another corpus, size, training length or choice of the learning rate."
)
