"""Evaluation of a run from its directory, to which nothing is written."""

from typing import Any

from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.evaluation.opened_run import Asked, Note, opened
from cartesian_moe_jax.evaluation.robustness import measure_robustness
from cartesian_moe_jax.models.feed_forwards import moe_layers
from cartesian_moe_jax.paths import AnyPath

__all__ = ["VALIDATION", "Asked", "evaluate_run", "robustness_of_run", "routing_use_of_run"]

VALIDATION = Asked()


def _silent(line: str) -> None:
    pass


def evaluate_run(
    workdir: AnyPath, step: int | None = None, asked: Asked = VALIDATION, note: Note = _silent
) -> dict[str, Any]:
    """Measure a checkpoint's perplexity; beside it, what was measured, with the data's hash.

    Text of any corpus is tokenised by the run's own tokenizer. ``note`` is told what a reader of
    the numbers should know.

    Raises UserError if there is no run, no such checkpoint, or the data cannot be had.
    """
    with opened(workdir, step, asked, note) as run:
        measured = run.evaluator.perplexity(run.parameters, asked.stride)
    return run.facts | measured.as_dict()


def robustness_of_run(
    workdir: AnyPath, step: int | None = None, asked: Asked = VALIDATION, note: Note = _silent
) -> dict[str, Any]:
    """Measure a checkpoint's perplexity while routing goes wrong, as ``trials``.

    ``note`` is told of each. Raises UserError as ``evaluate_run`` does, and for a model without
    routed experts.
    """
    with opened(workdir, step, asked, note) as run:
        evaluator, parameters = run.evaluator, run.parameters
        records = measure_robustness(
            evaluator.config,
            lambda intervention: evaluator.perplexity(parameters, asked.stride, intervention),
            note,
        )
    return run.facts | {"trials": records}


def routing_use_of_run(
    workdir: AnyPath, step: int | None = None, asked: Asked = VALIDATION, note: Note = _silent
) -> dict[str, Any]:
    """Measure which experts a checkpoint's tokens use.

    Beside what ``RoutingUse.as_dict`` tells, ``layers`` lists the depths of the MoE layers. Raises
    UserError as ``evaluate_run`` does, and for a model without routed experts.
    """
    with opened(workdir, step, asked, note) as run:
        use = run.evaluator.routing_use(run.parameters, asked.stride)
    if use is None:
        raise UserError("--routing_use is not defined for a model without routed experts")
    layers = moe_layers(run.evaluator.config.model)
    return run.facts | {"layers": layers} | use.as_dict()
