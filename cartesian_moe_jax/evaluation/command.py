"""What eval.py prints of a run, before it keeps it."""

import functools
from typing import Any

from cartesian_moe_jax.evaluation.changeable import Changes
from cartesian_moe_jax.evaluation.of_run import (
    Asked,
    evaluate_run,
    robustness_of_run,
    routing_use_of_run,
)
from cartesian_moe_jax.evaluation.of_tasks import AskedTasks, tasks_of_run
from cartesian_moe_jax.evaluation.place import Place
from cartesian_moe_jax.evaluation.report import report
from cartesian_moe_jax.evaluation.robustness import robustness_table
from cartesian_moe_jax.evaluation.robustness_picture import check_picture, draw_robustness
from cartesian_moe_jax.evaluation.routing_use_table import routing_use_table
from cartesian_moe_jax.evaluation.tasks_table import line_of_task, tasks_table
from cartesian_moe_jax.parallel.processes import is_first, say
from cartesian_moe_jax.paths import AnyPath

_note = functools.partial(say, error=True)


def print_evaluation(place: Place, step: int | None, asked: Asked) -> None:
    """Print loss, perplexity and bits per byte."""
    result = evaluate_run(place.workdir, step, asked, _note)
    say(report(result))
    place.keep("evaluation", result)


def print_robustness(place: Place, step: int | None, asked: Asked, picture: AnyPath | None) -> None:
    """Print perplexity while routing goes wrong, and draw it where a picture is asked for."""
    if picture:
        check_picture(picture)
    result = robustness_of_run(place.workdir, step, asked, _note)
    say(robustness_table(result["trials"]))
    place.keep("robustness", result)
    if picture and is_first():
        draw_robustness(result["trials"], picture)
        print(f"drawn in {picture}")


def print_routing_use(place: Place, step: int | None, asked: Asked) -> None:
    """Print which experts the tokens use."""
    result = routing_use_of_run(place.workdir, step, asked, _note)
    say(routing_use_table(result))
    place.keep("routing_use", result)


def print_tasks(place: Place, step: int | None, asked: AskedTasks, changes: Changes) -> None:
    """Print how downstream tasks are done; what is measured is kept after each of them.

    Beside it stays what was measured before of other tasks in the same way.
    """
    place.require_writable()
    before = place.kept("downstream")
    result: dict[str, Any] = {}
    told = 0
    for result in tasks_of_run(place.workdir, step, asked, changes):
        for name in list(result["tasks"])[told:]:
            _note(line_of_task(name, result["tasks"][name]))
        told = len(result["tasks"])
        place.keep("downstream", _joined(before, result), say_where=False)
    say(tasks_table(result["tasks"]))
    place.keep("downstream", _joined(before, result))


def _joined(before: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    def setting(numbers: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in numbers.items() if name != "tasks"}

    same = setting(before) == setting(result)
    return result | {"tasks": {**(before["tasks"] if same else {}), **result["tasks"]}}
