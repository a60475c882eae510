"""How the training loss falls, and how the gap to the reference goes."""

from collections.abc import Iterable

import numpy as np

from cartesian_moe_jax.study.comparison import Comparison
from cartesian_moe_jax.study.pictures.curves import Curves, draw_gaps, draw_losses
from cartesian_moe_jax.study.record import Record
from cartesian_moe_jax.study.section import Picture, Section
from cartesian_moe_jax.study.tables import code

TITLE = "Learning curves"


def curves(study: Comparison) -> Section | None:
    """Return two pictures; one line if no run has a curve."""
    if not study.runs:
        return None
    losses = {
        variant: curve
        for variant, runs in study.runs.items()
        if (curve := _loss_of(runs.values())) is not None
    }
    if not losses:
        return Section(TITLE, ["No training loss was kept."])
    gaps = {
        variant: gap for variant in study.others if (gap := _gap_of(study, variant)) is not None
    }
    blocks = [_losses(losses)]
    blocks.append(
        _gaps(gaps, study.reference)
        if gaps
        else f"No variant shares a seed with {code(study.reference)}: there are no gaps to show."
    )
    return Section(TITLE, blocks)


def _losses(losses: dict[str, Curves]) -> Picture:
    return Picture(
        "losses",
        "Training loss of each variant against the tokens it was trained on",
        "Training loss (nats per token, before each update, mean over seeds) against millions of "
        "tokens. The first 20% of the tokens may leave the picture at its top. Nothing is "
        "extrapolated: where the curves would go with more tokens is not known.",
        draw_losses(losses),
    )


def _gaps(gaps: dict[str, Curves], reference: str) -> Picture:
    return Picture(
        "gaps",
        f"Training loss of each variant minus that of {reference} against tokens",
        f"Training loss minus that of {reference} with the same seed (nats per token) against "
        "millions of tokens: thin lines are seeds, the thick one is their mean; below 0 is a "
        "lower loss. The vertical axis is made for what follows the first 20% of the tokens. "
        "Nothing is extrapolated: a gap that shrinks need not close, nor stay.",
        draw_gaps(gaps, reference),
    )


def _loss_of(runs: Iterable[Record]) -> Curves | None:
    """Return the losses of some seeds at the numbers of tokens that all of them have."""
    points = [
        dict(zip(run.curve["tokens"], run.curve["loss"], strict=True))
        for run in runs
        if run.curve.get("tokens")
    ]
    shared = sorted(set.intersection(*map(set, points))) if points else []
    if not shared:
        return None
    values = [[losses[tokens] for tokens in shared] for losses in points]
    return Curves(np.asarray(shared, np.float64), np.asarray(values, np.float64))


def _gap_of(study: Comparison, variant: str) -> Curves | None:
    """Return variant minus reference for the seeds that both have."""
    both = study.runs[variant], study.runs.get(study.reference, {})
    seeds = [
        seed
        for seed in sorted(set(both[0]) & set(both[1]))
        if all(runs[seed].curve.get("tokens") for runs in both)
    ]
    together = _loss_of(runs[seed] for seed in seeds for runs in both)
    if together is None:
        return None
    return Curves(together.tokens, together.values[0::2] - together.values[1::2])
