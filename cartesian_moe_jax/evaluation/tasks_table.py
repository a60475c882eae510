"""Measured downstream tasks in words."""

from typing import Any

from cartesian_moe_jax.columns import columns

HEADER = ("task", "metric", "value", "+-", "by chance", "shots", "examples", "cut short")


def tasks_table(tasks: dict[str, Any]) -> str:
    """Return a row for each metric of each task; ``tasks`` is that of ``tasks_of_run``.

    Standard errors are of the examples drawn: those of two models on the same examples are not
    independent. Cut short are requests longer than the model's window.
    """
    rows = [
        _row(name, metric, number, task)
        for name, task in tasks.items()
        for metric, number in task["metrics"].items()
    ]
    return columns([HEADER, *rows], left=2)


def line_of_task(name: str, task: dict[str, Any]) -> str:
    """Return one line on a task that is done."""
    metrics = ", ".join(f"{m} {_short(number['value'])}" for m, number in task["metrics"].items())
    seconds = f" ({task['seconds']:.0f} s)" if "seconds" in task else ""
    return f"{name}: {metrics}{seconds}"


def _short(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.4g}"


def _row(name: str, metric: str, number: dict[str, Any], task: dict[str, Any]) -> tuple[str, ...]:
    error, chance = number["stderr"], number.get("by_chance")
    return (
        name,
        metric,
        _short(number["value"]),
        "" if error is None else _short(error),
        f"{chance:.2f}" if chance else "",
        "" if task["shots"] is None else str(task["shots"]),
        "" if task["examples"] is None else f"{task['examples']:,}",
        f"{task['requests_cut_short']:,}" if "requests_cut_short" in task else "",
    )
