"""Table 1 as measured: what each variant costs and how well it predicts."""

import math

from cartesian_moe_jax.study import published
from cartesian_moe_jax.study.comparison import Comparison
from cartesian_moe_jax.study.costs import costs_of, experts_per_token, most, varies
from cartesian_moe_jax.study.section import Section
from cartesian_moe_jax.study.statistics import summary
from cartesian_moe_jax.study.tables import NOTHING, code, mean_and_sd, number, table

HEADER = (
    "variant",
    "total, M",
    "active, M",
    "forward MFLOPs per token",
    "experts per token",
    "learning rate",
    "seeds",
    "validation loss",
    "perplexity",
    "bits per byte",
    "paper: Base",
    "paper: Large",
)
NOTES = """\
Parameters in millions; active are those that one token uses. The learning rate is the highest of
the run; (experts 2x) is twice that for the routed experts; what is given was not tuned. Experts per
token: how many routed experts a token chooses in one MoE layer, in all its sub-layers, as measured
on validation text.
Validation loss: nats per token, mean ± standard deviation over seeds. Perplexity: exp of the mean
loss. The paper's columns: perplexity on the Pile after 100 billion tokens, at 842 million (Base)
and 2.88 billion (Large) parameters. Corpus, tokenizer and size are others, so their values cannot
be compared with those of this table."""
VARYING = """\
`{name}` chooses a varying number of experts: its active parameters and MFLOPs are those of the
mean number that tokens were seen to choose; at most a token uses {active:,.2f} million and
{flops:,.2f} MFLOPs."""


def quality(study: Comparison) -> Section | None:
    """Return the table; None without any measured run."""
    if not study.runs:
        return None
    varying = [
        VARYING.format(name=variant, active=most(run)[0] / 1e6, flops=most(run)[1] / 1e6)
        for variant, runs in study.runs.items()
        if varies(run := next(iter(runs.values())))
    ]
    rows = [_row(study, variant) for variant in study.runs]
    return Section(
        "Table 1 of the paper, as measured here",
        [table(HEADER, rows), NOTES, *varying],
    )


def rates_text(rates: dict[str, float]) -> str:
    """Return the learning rate, and the multiplier of the experts' where it is not 1."""
    text = f"{rates['learning_rate']:g}" if "learning_rate" in rates else NOTHING
    expert = rates.get("expert_rate", 1)
    return text if expert == 1 else f"{text} (experts {expert:g}x)"


def published_cells(variant: str) -> list[str]:
    """Return the paper's perplexities (Base, Large) of a method; of other variants there are none.

    Of cartesian_noshared the paper has one for Large, in its table 3.
    """
    sizes = published.TABLE_1.get(variant)
    if sizes is None:
        return [NOTHING, number(published.TABLE_3.get(variant), ".2f")]
    return [number(size, ".2f") for size in sizes]


def _given(study: Comparison, variant: str) -> str:
    """Return a mark for rates that were given, behind those of a variant."""
    given = study.given(variant)
    if not given:
        return ""
    # With a learning rate alone, or with both, the mark is for all that stands there.
    return ", experts' given" if given == ("expert_rate",) else ", given"


def _row(study: Comparison, variant: str) -> list[str]:
    runs = study.runs[variant]
    first = next(iter(runs.values()))
    costs = costs_of(runs)
    loss = summary(study.losses(variant).values())
    experts = study.values(variant, experts_per_token).values()
    bits = study.values(variant, lambda run: run.validation.get("bits_per_byte")).values()
    rates = dict.fromkeys(rates_text(run.rates) for run in runs.values())
    return [
        code(variant),
        f"{first.model['total_parameters'] / 1e6:,.2f}",
        f"{costs.active_parameters / 1e6:,.2f}",
        f"{costs.forward_flops / 1e6:,.2f}",
        f"{summary(experts).mean:.2f}" if experts else NOTHING,
        " or ".join(rates) + _given(study, variant),
        str(loss.n),
        mean_and_sd(loss),
        f"{math.exp(loss.mean):,.3f}",
        f"{summary(bits).mean:.4f}" if bits else NOTHING,
        *published_cells(variant),
    ]
