"""Table 4 as measured: what is left when routing goes wrong."""

import math
from collections.abc import Mapping

from cartesian_moe_jax.study import published
from cartesian_moe_jax.study.comparison import Comparison
from cartesian_moe_jax.study.costs import choices
from cartesian_moe_jax.study.family import Family, family_of
from cartesian_moe_jax.study.pictures.rises import draw_rises
from cartesian_moe_jax.study.record import Record
from cartesian_moe_jax.study.section import Picture, Section
from cartesian_moe_jax.study.sections.differences import family_table
from cartesian_moe_jax.study.statistics import Summary, summary
from cartesian_moe_jax.study.tables import NOTHING, code, mean_and_range, number, table

TITLE = "Table 4 of the paper: when routing goes wrong"
COUNTS = (1, 2, 3)
HEADER = (
    "variant",
    "seeds",
    "perplexity",
    "top-1 disabled: of choices",
    "top-1 disabled: perplexity",
    *(f"top-{count} disabled: loss rise" for count in COUNTS),
    "paper: perplexity",
    "paper: top-1 disabled",
    "paper: loss rise",
)
NOTE = """\
Each token's 1, 2 or 3 most probable experts are disabled, in all sub-layers, without training
again. Rises of the validation loss in nats per token: mean (lowest..highest seed). Perplexities are
exp of the mean loss. The paper's columns: Large, on the Pile; its loss rise is the logarithm of the
ratio of its two perplexities. Where seeds of two variants overlap, the rises do not tell them
apart. Of choices: how many of the experts that a token chose in each sub-layer the disabling of the
top-1 replaces by the next most probable; methods with fewer choices lose a larger share."""
ONE_AT_A_TIME = """\
The same in one sub-layer at a time, of all layers: rises of the loss, mean (lowest..highest
seed). Sub-layer 0 is the first that a token passes."""
OTHERS = """\
Other faults, in all sub-layers: a share of the tokens routed to random experts, and single experts
removed (mean over the removed experts, and the worst of them). Rises of the loss, mean
(lowest..highest seed)."""


def robustness(study: Comparison) -> Section | None:
    """Return tables and a picture; one line if no run was tested."""
    tested = [variant for variant in study.runs if measured_trials(study, variant)]
    if not study.runs:
        return None
    if not tested:
        return Section(TITLE, ["No run was tested for this."])
    rows = [_row(study, variant) for variant in tested]
    blocks = [table(HEADER, rows), NOTE, _picture(study, tested)]
    untested = [code(variant) for variant in study.runs if variant not in tested]
    if untested:
        blocks.insert(2, f"Not defined or not tested for {', '.join(untested)}.")
    return Section(TITLE, [*blocks, *_paired(study), *_by_sublayer(study, tested), *_others(study)])


def measured_trials(study: Comparison, variant: str) -> dict[int, Record]:
    """Return the runs of a variant, by seed, that have trials."""
    return {seed: run for seed, run in study.runs[variant].items() if run.robustness}


def rises(
    study: Comparison, variant: str, kind: str, where: str, amount: int | float
) -> dict[int, float]:
    """Return by seed the rise of the loss of one trial, nats per token."""
    return _of_trial(study, variant, kind, where, amount, "loss_rise")


def _of_trial(
    study: Comparison, variant: str, kind: str, where: str, amount: int | float, field: str
) -> dict[int, float]:
    def value(run: Record) -> float | None:
        wanted = (kind, where, amount)
        found = [
            trial[field]
            for trial in run.robustness or ()
            if (trial["kind"], trial["where"], trial["amount"]) == wanted
        ]
        return found[0] if found else None

    return study.values(variant, value)


def _summary(values: Mapping[int, float]) -> Summary | None:
    return summary(values.values()) if values else None


def _row(study: Comparison, variant: str) -> list[str]:
    undisturbed = _summary(_of_trial(study, variant, "none", "all", 0, "loss"))
    disabled = _summary(_of_trial(study, variant, "disabled", "all", 1, "loss"))
    cells = [
        mean_and_range(_summary(rises(study, variant, "disabled", "all", count)))
        for count in COUNTS
    ]
    paper = published.TABLE_4.get(variant)
    return [
        code(variant),
        str(len(measured_trials(study, variant))),
        number(undisturbed and math.exp(undisturbed.mean), ",.2f"),
        _share(study, variant) if disabled else NOTHING,
        number(disabled and math.exp(disabled.mean), ",.2f"),
        *cells,
        *([NOTHING] * 3 if paper is None else _published(paper)),
    ]


def _share(study: Comparison, variant: str) -> str:
    chosen = _summary(study.values(variant, choices))
    return f"1 of {chosen.mean:.3g}" if chosen else NOTHING


def _published(paper: published.Disabled) -> list[str]:
    rise = math.log(paper.top_1_disabled / paper.perplexity)
    return [f"{paper.perplexity:.2f}", f"{paper.top_1_disabled:,.2f}", f"{rise:+.3f}"]


def harm_family(study: Comparison) -> Family:
    """Return the differences to the reference in the rise that the paper reports."""
    return family_of(
        study, study.reference, lambda variant: rises(study, variant, "disabled", "all", 1)
    )


def _paired(study: Comparison) -> list[str]:
    rows = family_table(harm_family(study))
    text = (
        "Paired differences in the rise with the top-1 expert disabled in all sub-layers, nats "
        "per token; negative is less harm. Read as the differences in validation loss above."
    )
    return [text, rows] if rows else []


def _by_sublayer(study: Comparison, tested: list[str]) -> list[str]:
    rows = []
    for variant in tested:
        places = sorted(
            {
                trial["where"]
                for run in measured_trials(study, variant).values()
                for trial in run.robustness
                if trial["kind"] == "disabled" and trial["where"] != "all"
            }
        )
        for where in places:
            cells = [
                mean_and_range(_summary(rises(study, variant, "disabled", where, count)))
                for count in COUNTS
            ]
            rows.append([code(variant), where, *cells])
    header = ["variant", "disabled in", *(f"top-{count}" for count in COUNTS)]
    return [ONE_AT_A_TIME, table(header, rows, words=2)] if rows else []


def _others(study: Comparison) -> list[str]:
    runs = [run for by_seed in study.runs.values() for run in by_seed.values()]
    trials = [trial for run in runs for trial in run.robustness or ()]
    shares = sorted({trial["amount"] for trial in trials if trial["kind"] == "random"})
    rows = []
    for variant in study.runs:
        cells = [
            mean_and_range(_summary(rises(study, variant, "random", "all", share)))
            for share in shares
        ]
        mean = mean_and_range(_summary(study.values(variant, _mean_removed)), "+.4f")
        worst = mean_and_range(_summary(study.values(variant, _worst_removed)), "+.4f")
        if {*cells, mean, worst} != {NOTHING}:
            rows.append([code(variant), *cells, mean, worst])
    header = ["variant", *(f"{share:.0%} random" for share in shares), "removed: mean", "worst"]
    return [OTHERS, table(header, rows)] if rows else []


def _removed(run: Record) -> list[float]:
    return [trial["loss_rise"] for trial in run.robustness or () if trial["kind"] == "removed"]


def _mean_removed(run: Record) -> float | None:
    found = _removed(run)
    return summary(found).mean if found else None


def _worst_removed(run: Record) -> float | None:
    return max(_removed(run), default=None)


def _picture(study: Comparison, tested: list[str]) -> Picture:
    points = {
        variant: {
            count: list(rises(study, variant, "disabled", "all", count).values())
            for count in COUNTS
        }
        for variant in tested
    }
    return Picture(
        "rises",
        "Rise of the loss of each variant with its most probable experts disabled",
        "Rise of the validation loss (nats per token) with each token's top-1, top-2 and top-3 "
        "experts disabled in all sub-layers. One point a seed, a bar at their mean. Missing: not "
        "defined for that variant, such as the hash router's.",
        draw_rises(points),
    )
