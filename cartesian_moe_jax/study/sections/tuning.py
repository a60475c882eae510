"""How the rates were chosen."""

from collections.abc import Sequence
from typing import NamedTuple

from cartesian_moe_jax.study.comparison import Comparison, variant_order, why_unmeasured
from cartesian_moe_jax.study.record import Record
from cartesian_moe_jax.study.section import Section
from cartesian_moe_jax.study.sections.quality import rates_text
from cartesian_moe_jax.study.statistics import summary
from cartesian_moe_jax.study.tables import NOTHING, bullets, code, table

TITLE = "Tuning of the learning rates"
FIELDS = {"learning_rate": "learning rate", "expert_rate": "rate of the experts"}
NOTE = """\
Validation loss of the tuning runs, nats per token (mean where several seeds were tried). (c) marks
the rates of the compared runs, or the lowest loss where none was compared. These losses serve the
choice only: the compared runs are others. Both are measured on the same validation text: a tuned
rate is fitted to it, by as much as a choice among so few trials allows. How a given one was found,
the records do not say."""


class Rates(NamedTuple):
    """What was tuned; sorts by the experts' multiplier, then the rate."""

    expert_rate: float
    learning_rate: float


def tuning(study: Comparison) -> Section | None:
    """Return a table of method and rates; one line without tuning runs."""
    if not study.tuning:
        return Section(TITLE, ["The records hold no tuning runs: the rates were given."])
    tried = sorted({_rates(run) for run in study.tuning})
    variants = sorted({run.variant for run in study.tuning}, key=variant_order)
    header = ["variant", *(rates_text(rates._asdict()) for rates in tried)]
    rows = [
        [code(variant), *(_cell(study, variant, rates) for rates in tried)] for variant in variants
    ]
    remarks = [line for variant in variants for line in _remarks(study, variant)]
    remarks += _untuned(study)
    return Section(
        TITLE, [table(header, rows), f"{NOTE} {_length(study.tuning)}", bullets(remarks)]
    )


def _untuned(study: Comparison) -> list[str]:
    """Return a line for each set of rates that was given, with the variants it was given to."""
    found: dict[str, list[str]] = {}
    for variant, runs in study.runs.items():
        given = study.given(variant)
        if given == ("expert_rate",):
            found.setdefault("the rate of the experts was given", []).append(code(variant))
        elif given == ("learning_rate",):
            found.setdefault("the learning rate was given", []).append(code(variant))
        elif given:
            rates = " or ".join(dict.fromkeys(rates_text(run.rates) for run in runs.values()))
            found.setdefault(f"not tuned, the rates were given: {rates}", []).append(code(variant))
    return [f"{', '.join(variants)}: {line}." for line, variants in found.items()]


def _rates(run: Record) -> Rates:
    return Rates(run.rates.get("expert_rate", 1.0), run.rates["learning_rate"])


def _losses(study: Comparison, variant: str) -> dict[Rates, list[float]]:
    """Return what was tried for a variant: the losses; none where all runs failed."""
    found: dict[Rates, list[float]] = {}
    for run in study.tuning:
        if run.variant == variant:
            losses = found.setdefault(_rates(run), [])
            losses.extend([] if why_unmeasured(run) else [run.validation["loss"]])
    return found


def _chosen(study: Comparison, variant: str) -> set[Rates]:
    """Return the rates of the compared runs, or those of the lowest loss in tuning."""
    compared = {_rates(run) for run in study.runs.get(variant, {}).values()}
    means = _means(study, variant)
    return compared or ({min(means, key=lambda rates: means[rates])} if means else set())


def _means(study: Comparison, variant: str) -> dict[Rates, float]:
    found = _losses(study, variant)
    return {rates: summary(losses).mean for rates, losses in found.items() if losses}


def _cell(study: Comparison, variant: str, rates: Rates) -> str:
    tried = _losses(study, variant)
    if rates not in tried:
        return NOTHING
    mark = " (c)" if rates in _chosen(study, variant) else ""
    return (f"{summary(tried[rates]).mean:.4f}" if tried[rates] else "failed") + mark


def _length(runs: Sequence[Record]) -> str:
    trained = [run.tokens / 1e6 for run in runs if not why_unmeasured(run)]
    if not trained:
        return "No tuning run was measured."
    low, high = (f"{tokens:,.2f}" for tokens in (min(trained), max(trained)))
    length = low if low == high else f"{low} to {high}"
    return f"They were trained on {length} million tokens each."


def _remarks(study: Comparison, variant: str) -> list[str]:
    """Return a line for each way in which a choice is doubtful, or one that none was seen."""
    tried, means = list(_losses(study, variant)), _means(study, variant)
    chosen = _chosen(study, variant)
    lines = [
        line
        for rates in sorted(chosen)
        for field in FIELDS
        for line in _end_of_grid(field, rates, tried)
    ]
    lowest = min(means, key=lambda rates: means[rates]) if means else None
    if lowest and lowest not in chosen:
        lines.append(f"the lowest loss in tuning was at {rates_text(lowest._asdict())}")
    return [f"{code(variant)}: {line}." for line in lines or ["the choice lies inside the grid"]]


def _end_of_grid(field: str, chosen: Rates, tried: Sequence[Rates]) -> list[str]:
    """Say so if the chosen value is the lowest or highest of those tried beside it."""
    value, words = getattr(chosen, field), FIELDS[field]
    # Learning rates are tried first, multipliers then at the best of them.
    beside = {
        "learning_rate": tried,
        "expert_rate": [rates for rates in tried if rates.learning_rate == chosen.learning_rate],
    }
    values = sorted({getattr(rates, field) for rates in beside[field]})
    if chosen not in tried:
        return ["the chosen rates were not tried in tuning"] if field == "learning_rate" else []
    if len(values) == 1:
        return [f"one {words} only was tried"] if field == "learning_rate" else []
    ends = {values[0]: ("lowest", "lower"), values[-1]: ("highest", "higher")}
    if value not in ends:
        return []
    end, beyond = ends[value]
    return [
        f"the chosen {words}, {value:g}, is the {end} that was tried: it lies at the end of the "
        f"grid, and a {beyond} one may be better"
    ]
