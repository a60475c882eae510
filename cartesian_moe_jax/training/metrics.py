"""A step's report as named numbers."""

import math
from collections.abc import Sequence

import numpy as np

from cartesian_moe_jax.moe.routing import RoutingStats
from cartesian_moe_jax.training.step import StepReport


def routing_metrics(stats: RoutingStats, layers: Sequence[int]) -> dict[str, float]:
    """Name each sub-layer's numbers ``moe/layer2/sublayer0/load_max`` and so on.

    ``load_max`` and ``load_min`` are relative to the ideal load (1 is even). ``layers`` lists the
    depths of the MoE layers.
    """
    relative = np.asarray(stats.relative_load())
    per_sublayer = {
        "load_max": relative.max(-1),
        "load_min": relative.min(-1),
        "experts_per_token": np.asarray(stats.experts_per_token()),
        "dropped": np.asarray(stats.dropped),
        "router_entropy": np.asarray(stats.entropy),
        "balance_loss": np.asarray(stats.balance_loss),
        "z_loss": np.asarray(stats.z_loss),
    }
    return {
        f"moe/layer{layer}/sublayer{s}/{name}": float(values[i, s])
        for i, layer in enumerate(layers)
        for s in range(relative.shape[1])
        for name, values in per_sublayer.items()
    }


def step_metrics(report: StepReport, layers: Sequence[int]) -> dict[str, float]:
    """Return loss (nats per token), perplexity, gradient norm, and every sub-layer's numbers."""
    loss = float(report.loss)
    metrics = {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "gradient_norm": float(report.gradient_norm),
    }
    if report.routing is not None:
        metrics["experts_per_token"] = float(np.mean(report.routing.experts_per_token()))
        metrics["balance_loss"] = float(np.sum(report.routing.balance_loss))
        metrics["z_loss"] = float(np.sum(report.routing.z_loss))
        metrics |= routing_metrics(report.routing, layers)
    return metrics


def worst_load(metrics: dict[str, float]) -> float | None:
    """Return the largest load over ideal load of any expert, or None without MoE layers."""
    loads = [value for name, value in metrics.items() if name.endswith("/load_max")]
    return max(loads) if loads else None


def worst_dropped(metrics: dict[str, float]) -> float:
    """Return the largest share of pairs that a sub-layer's exchange dropped; 0 without any."""
    return max((v for name, v in metrics.items() if name.endswith("/dropped")), default=0.0)
