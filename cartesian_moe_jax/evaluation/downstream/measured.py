"""Tasks measured one after the other, as plain numbers."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

from cartesian_moe_jax.evaluation.downstream.definitions import Defined
from cartesian_moe_jax.evaluation.downstream.library import as_its_command_does, library
from cartesian_moe_jax.evaluation.downstream.paper_tasks import PAPER_TASKS

BOOTSTRAPS = 1000
"""Samples drawn again for the standard error of what is no mean."""


def measure(
    model: Any, tasks: Sequence[Defined], limit: int | None
) -> Iterator[dict[str, dict[str, Any]]]:
    """Yield, after each task, its numbers by name (of a group: those of its tasks too).

    ``model`` is a ``HarnessModel``. ``limit``: examples of each task, from its start; None: all.
    """
    for task in tasks:
        began, cut_short = time.monotonic(), model.cut_short
        with as_its_command_does():
            found = library("evaluator").evaluate(
                model, task.loaded, limit=limit, bootstrap_iters=BOOTSTRAPS, log_samples=False
            )
        numbers = {name: _numbers(found, name) for name in found["results"]}
        whole = {
            "seconds": time.monotonic() - began,
            "requests_cut_short": model.cut_short - cut_short,
        }
        # A tag, unlike a group, has no numbers of its own.
        numbers[task.name] = numbers.get(task.name, {"metrics": {}}) | whole
        yield numbers


def _numbers(found: dict[str, Any], name: str) -> dict[str, Any]:
    """Return what the harness found of a task or group, with the names of metrics alone."""
    of_task = found["results"][name]
    metrics = {}
    for key, value in of_task.items():
        metric, _, _ = key.partition(",")
        if "," in key and not metric.endswith("_stderr"):
            error = of_task.get(key.replace(metric, f"{metric}_stderr", 1))
            metrics[metric] = {"value": float(value), "stderr": _number(error)}
    counts = found.get("n-samples", {}).get(name, {})
    by_chance = {"by_chance": PAPER_TASKS[name].by_chance} if name in PAPER_TASKS else {}
    return {
        "metrics": metrics,
        "shots": found.get("n-shot", {}).get(name),
        "examples": counts.get("effective"),
        "of": counts.get("original"),
        "version": found.get("versions", {}).get(name),
        **by_chance,
    }


def _number(value: Any) -> float | None:
    """Return a number, or None where the harness has none for us (it says N/A)."""
    return float(value) if isinstance(value, int | float) else None
