"""What happens to a model when its routing goes wrong (paper, table 4, and beyond).

Each trial is an intervention in the routers and the perplexity that is left; one compiled program
serves all of them.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from cartesian_moe_jax.config import Config
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.evaluation.perplexity import Evaluation
from cartesian_moe_jax.models.feed_forwards import moe_layers, sublayer_shape
from cartesian_moe_jax.moe.intervention import Intervention, no_intervention
from cartesian_moe_jax.moe.routers import router_named

DISABLED = (1, 2, 3)
"""How many of each token's most probable experts are disabled."""
SHARES = (0.1, 0.25, 0.5, 1.0)
"""Shares of the tokens that are routed at random."""
REMOVALS = 32
"""Single experts that are removed at most, spread evenly over layers, sub-layers and experts."""


class Trial(NamedTuple):
    """One way in which routing goes wrong."""

    kind: str
    """none, disabled, random, or removed."""
    where: str
    """`all` sub-layers, `sublayer S` of all layers, or the expert."""
    amount: float
    """Experts disabled or removed, or the share of the tokens."""
    intervention: Intervention


def trials(config: Config) -> Iterator[Trial]:
    """Yield the trials that are defined for a model; raises UserError if it has no experts.

    The hash router's experts are fixed by the token, and none is more probable for its context:
    nothing is disabled there, as in the paper.
    """
    layers, moe = len(moe_layers(config.model)), config.model.moe
    if not layers:
        raise UserError("--robustness is not defined for a model without routed experts")
    plain = no_intervention(layers, moe.sublayers, moe.num_experts, config.training.seed)
    yield Trial("none", "all", 0, plain)
    router = router_named(moe.router)
    slots = router.slots(sublayer_shape(config.model))
    for count in DISABLED:
        if router.learned and moe.num_experts - count >= slots:
            yield from _disabled(plain, count)
    for share in SHARES:
        everywhere = plain._replace(random_share=jnp.full_like(plain.random_share, share))
        yield Trial("random", "all", share, everywhere)
    if moe.num_experts > slots:
        yield from _removed(plain)


def _disabled(plain: Intervention, count: int) -> Iterator[Trial]:
    counts = np.full(plain.disabled.shape, count, np.int32)
    yield Trial("disabled", "all", count, plain._replace(disabled=jnp.asarray(counts)))
    sublayers = counts.shape[1]
    for sublayer in range(sublayers if sublayers > 1 else 0):
        only = np.where(np.arange(sublayers) == sublayer, counts, 0)
        yield Trial(
            "disabled", f"sublayer {sublayer}", count, plain._replace(disabled=jnp.asarray(only))
        )


def _removed(plain: Intervention) -> Iterator[Trial]:
    size = plain.removed.size
    for flat in np.unique(np.linspace(0, size - 1, min(REMOVALS, size)).astype(int)):
        removed = np.zeros(plain.removed.shape, bool)
        layer, sublayer, expert = np.unravel_index(flat, removed.shape)
        removed[layer, sublayer, expert] = True
        where = f"MoE layer {layer}, sublayer {sublayer}, expert {expert}"
        yield Trial("removed", where, 1, plain._replace(removed=jnp.asarray(removed)))


def measure_robustness(
    config: Config,
    measure: Callable[[Intervention], Evaluation],
    note: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Return a record for each trial: kind, where, amount, loss, perplexity, rise of the loss.

    ``measure`` returns the evaluation under an intervention; ``note`` is told what was measured.
    """
    records: list[dict[str, Any]] = []
    for trial in trials(config):
        mean = measure(trial.intervention).mean
        undisturbed = records[0]["loss"] if records else mean.loss
        records.append(
            {
                "kind": trial.kind,
                "where": trial.where,
                "amount": trial.amount,
                "loss": mean.loss,
                "perplexity": mean.perplexity,
                "loss_rise": mean.loss - undisturbed,
            }
        )
        note(f"{trial.kind} {trial.amount:g} in {trial.where}: perplexity {mean.perplexity:.3f}")
    return records


def robustness_table(records: list[dict[str, Any]]) -> str:
    """Return a row for each trial; single removed experts are summed up, with the worst one."""
    shown = [r for r in records if r["kind"] != "removed"]
    removed = [r for r in records if r["kind"] == "removed"]
    lines = [f"{'routing':28}  {'where':12}  {'perplexity':>12}  {'loss rise':>9}"]
    for r in shown:
        lines.append(
            f"{LABELS[r['kind']].format(r['amount']):28}  {r['where']:12}  "
            f"{r['perplexity']:12.3f}  {r['loss_rise']:+9.4f}"
        )
    if removed:
        rises = [r["loss_rise"] for r in removed]
        worst = removed[int(np.argmax(rises))]
        lines.append(
            f"one expert removed ({len(removed)} tried): loss rise {np.mean(rises):+.4f} on "
            f"average, {max(rises):+.4f} at most ({worst['where']})"
        )
    return "\n".join(lines)


LABELS = {
    "none": "as it was trained",
    "disabled": "top-{} experts disabled",
    "random": "{:.0%} of tokens at random",
}
