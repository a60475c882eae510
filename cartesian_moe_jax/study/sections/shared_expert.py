"""Table 3 as measured: what the shared expert is worth."""

import math

from cartesian_moe_jax.study import published
from cartesian_moe_jax.study.comparison import Comparison
from cartesian_moe_jax.study.section import Section
from cartesian_moe_jax.study.statistics import Difference, paired_difference, summary
from cartesian_moe_jax.study.tables import NOTHING, code, interval, mean_and_sd, table

TITLE = "Table 3 of the paper: without the shared expert"
WITH, WITHOUT = "cartesian", "cartesian_noshared"
HEADER = ("variant", "shared expert", "seeds", "validation loss", "perplexity", "paper: Large")
SHARES = {
    "cartesian": "one in each sub-layer",
    "cartesian_noshared": "none",
    "smoe_top3": "none",
    "fine_grained": "two, their mean",
}


def shared_expert(study: Comparison) -> Section | None:
    """Return the table; one line if the variant without the shared expert was not measured."""
    if not study.runs:
        return None
    if WITHOUT not in study.runs:
        return Section(TITLE, [f"{code(WITHOUT)} was not measured."])
    rows = [_row(study, method) for method in SHARES]
    note = "Validation loss in nats per token, mean ± standard deviation over seeds."
    return Section(TITLE, [table(HEADER, rows, words=2), note, *_difference(study)])


def _row(study: Comparison, method: str) -> list[str]:
    paper = f"{published.TABLE_3[method]:.2f}"
    losses = study.losses(method)
    if not losses:
        return [code(method), SHARES[method], *[NOTHING] * 3, paper]
    loss = summary(losses.values())
    perplexity = f"{math.exp(loss.mean):,.3f}"
    return [code(method), SHARES[method], str(loss.n), mean_and_sd(loss), perplexity, paper]


def shared_expert_difference(study: Comparison) -> Difference | None:
    """Return the loss without shared experts minus that with; None if no seed has both."""
    return paired_difference(study.losses(WITHOUT), study.losses(WITH))


def _difference(study: Comparison) -> list[str]:
    found = shared_expert_difference(study)
    if found is None:
        return []
    by = math.log(published.TABLE_3[WITHOUT] / published.TABLE_3[WITH])
    return [
        f"{code(WITHOUT)} minus {code(WITH)}: {found.mean:+.4f} nats per token, 95% interval "
        f"{interval(found)}, {found.n} paired seeds: {found.verdict}, without correction. "
        f"In the paper: {by:+.3f}."
    ]
