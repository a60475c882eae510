"""What eval.py prints of a run, and the files it leaves there."""

import functools

from cartesian_moe_jax.evaluation.of_run import (
    Asked,
    evaluate_run,
    robustness_of_run,
    routing_use_of_run,
)
from cartesian_moe_jax.evaluation.report import report
from cartesian_moe_jax.evaluation.robustness import robustness_table
from cartesian_moe_jax.evaluation.robustness_picture import check_picture, draw_robustness
from cartesian_moe_jax.evaluation.routing_use_table import routing_use_table
from cartesian_moe_jax.parallel.processes import is_first, say
from cartesian_moe_jax.paths import AnyPath


def print_evaluation(workdir: AnyPath, step: int | None, asked: Asked) -> None:
    """Print loss, perplexity and bits per byte."""
    say(report(evaluate_run(workdir, step, asked)))
    say(f"{'written to':16} {workdir / 'evaluation.json'}")


def print_robustness(
    workdir: AnyPath, step: int | None, asked: Asked, picture: AnyPath | None
) -> None:
    """Print perplexity while routing goes wrong, and draw it where a picture is asked for."""
    if picture:
        check_picture(picture)
    result = robustness_of_run(workdir, step, asked, functools.partial(say, error=True))
    say(robustness_table(result["trials"]))
    say(f"written to {workdir / 'robustness.json'}")
    if picture and is_first():
        draw_robustness(result["trials"], picture)
        print(f"drawn in {picture}")


def print_routing_use(workdir: AnyPath, step: int | None, asked: Asked) -> None:
    """Print which experts the tokens use."""
    say(routing_use_table(routing_use_of_run(workdir, step, asked)))
    say(f"written to {workdir / 'routing_use.json'}")
