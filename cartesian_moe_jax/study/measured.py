"""What is measured of a finished run, for its record."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from cartesian_moe_jax.config import Config
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.evaluation.of_run import Asked, robustness_of_run, routing_use_of_run
from cartesian_moe_jax.models.feed_forwards import moe_layers
from cartesian_moe_jax.paths import AnyPath
from cartesian_moe_jax.runs.metric_records import run_metrics

POINTS = 50
"""Of a learning curve."""


def measured_of_result(result: dict[str, Any], workdir: AnyPath, config: Config) -> dict[str, Any]:
    """Return what training itself says; raises UserError if the loss is no number."""
    validation = {k: v for k, v in result["validation"].items() if isinstance(v, int | float)}
    loss = validation.get("loss", math.nan)
    if not math.isfinite(loss):  # of a run that an earlier version ended
        raise UserError(f"diverged: its validation loss is {loss}")
    return {
        "tokens": result["tokens"],
        "validation": validation,
        "curve": learning_curve(workdir, config),
        "training_seconds": result["training_seconds"],
        "tokens_per_second": result["tokens"] / max(result["training_seconds"], 1e-9),
        "machine": result["machine"],
    }


def measured_of_routing(
    workdir: AnyPath, config: Config, max_tokens: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Return which experts are used, and what is left when routing goes wrong.

    ``max_tokens`` are predicted in each trial of the latter.
    """
    if not moe_layers(config.model):
        return {"routing_use": None, "robustness": None}
    say("measuring routing and robustness")
    asked = Asked(max_tokens=max_tokens)
    use = routing_use_of_run(workdir, asked=Asked(max_tokens=config.evaluation.max_tokens))
    return {
        "routing_use": {name: use[name] for name in ("load", "pairs")},
        "robustness": robustness_of_run(workdir, asked=asked)["trials"],
    }


def learning_curve(workdir: AnyPath, config: Config) -> dict[str, list[float]]:
    """Return the training loss before each update, averaged over equal stretches of tokens."""
    records = [r for r in run_metrics(workdir) if r.get("loss") is not None]
    steps = np.array([r["step"] for r in records])
    losses = np.array([r["loss"] for r in records])
    tokens_per_step = config.training.batch_size * config.data.seq_len
    stretch = (steps - 1) * POINTS // config.training.steps
    points = np.unique(stretch)
    return {
        "tokens": [float(steps[stretch == point].max() * tokens_per_step) for point in points],
        "loss": [float(losses[stretch == point].mean()) for point in points],
    }
