"""What was compared, and how small a difference it could show."""

import math
from collections.abc import Mapping

from cartesian_moe_jax.study import published
from cartesian_moe_jax.study.comparison import Comparison
from cartesian_moe_jax.study.section import Section
from cartesian_moe_jax.study.sections.differences import against
from cartesian_moe_jax.study.statistics import LEVEL, POWER, pooled_sd, smallest_gap, summary
from cartesian_moe_jax.study.tables import bullets, code, plain

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
    lines = [_size(study), *_tokens(study), *(_noise(study) or [ONE_SEED]), ORDER]
    return Section(TITLE, [bullets(lines)])


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
    """Return what several seeds tell of the noise; nothing for one seed."""
    groups = [summary(study.losses(variant).values()) for variant in study.runs]
    within = pooled_sd((group.sd, group.n) for group in groups)
    if within is None:
        return []
    lines = [
        f"From seed to seed the validation loss of one variant has a standard deviation of "
        f"{within.sd:.4f} nats per token (pooled over the variants, {within.degrees} degrees of "
        "freedom)."
    ]
    differences = against(study, study.reference, study.losses)
    paired = pooled_sd((d.sd, d.n) for d in differences.values())
    if paired is None:
        return [*lines, "There are no paired seeds, so no difference has an interval."]
    numbers = sorted({d.n for d in differences.values() if d.n > 1})
    gaps = [f"{smallest_gap(paired.sd, n):.4f} with {n} paired seeds" for n in numbers]
    lines.append(
        f"Differences to {code(study.reference)} of the same seed have a standard deviation of "
        f"{paired.sd:.4f} (pooled, {paired.degrees} degrees of freedom). The smallest true gap "
        f"that a paired t test at the {LEVEL:.0%} level would find with probability {POWER:g} is "
        f"{' and '.join(gaps)}, in nats per token. Smaller gaps are found less often. "
        f"{_published()}"
    )
    return [*lines, _comparisons(len(differences)), SPAN]


def _comparisons(count: int) -> str:
    return (
        f"Each interval is at the {1 - LEVEL:.0%} level on its own, without correction for their "
        f"number: of {count} comparisons with no true difference, {count * LEVEL:.2g} would be "
        "called lower or higher on average."
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
