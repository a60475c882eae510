"""Tasks measured one after the other, as plain numbers."""

import time
from collections import Counter
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
    """Return what the harness found of a task or group.

    A metric has its name alone, or, where answers are read in several ways, the way's beside it.
    """
    of_task = found["results"][name]
    keys = [key.split(",", 1) for key in of_task if "," in key]
    keys = [(metric, each) for metric, each in keys if not metric.endswith("_stderr")]
    several = {metric for metric, count in Counter(m for m, _ in keys).items() if count > 1}
    metrics = {}
    for metric, each in keys:
        shown = f"{metric} ({each})" if metric in several else metric
        error = _number(of_task.get(f"{metric}_stderr,{each}"))
        metrics[shown] = {"value": float(of_task[f"{metric},{each}"]), "stderr": error}
    if name in PAPER_TASKS:
        metrics[PAPER_TASKS[name].metric]["by_chance"] = PAPER_TASKS[name].by_chance
    counts = found.get("n-samples", {}).get(name, {})
    return {
        "metrics": metrics,
        "shots": found.get("n-shot", {}).get(name),
        "examples": counts.get("effective"),
        "of": counts.get("original"),
        "version": found.get("versions", {}).get(name),
    }


def _number(value: Any) -> float | None:
    """Return a number, or None where the harness has none for us (it says N/A)."""
    return float(value) if isinstance(value, int | float) else None
