"""Evaluate a run: python eval.py --workdir=DIR [--corpus=text:FILES --split=all --stride=64]."""

from sys import stderr

from absl import flags

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
from cartesian_moe_jax.paths import AnyPath, as_path
from configs import flags as config_flags

WORKDIR = flags.DEFINE_string("workdir", None, "The run directory.", required=True)
STEP = flags.DEFINE_integer("step", None, "The checkpoint; the newest if not given.")
CORPUS = flags.DEFINE_string("corpus", "", "Any corpus; the run's own if not given.")
SPLIT = flags.DEFINE_string(
    "split", "", "train, validation, all, or one of a tfds dataset; validation, or all of --corpus."
)
STRIDE = flags.DEFINE_integer("stride", 0, "Tokens between windows; 0: they do not overlap.")
ROBUSTNESS = flags.DEFINE_bool("robustness", False, "Measure it while routing goes wrong.")
PICTURE = flags.DEFINE_string("picture", "", "Of --robustness: an .svg, .png or .pdf to draw.")
ROUTING_USE = flags.DEFINE_bool("routing_use", False, "Measure which experts its tokens use.")
MAX_TOKENS = flags.DEFINE_integer("max_tokens", None, "Predicted at most; 0: all.", lower_bound=0)


def main() -> None:
    """Measure what is asked for, print it, and leave it in the run directory."""
    workdir = as_path(WORKDIR.value)
    asked = Asked(CORPUS.value, SPLIT.value, STRIDE.value, MAX_TOKENS.value)
    if ROBUSTNESS.value:
        robustness(workdir, asked)
    if ROUTING_USE.value:
        print(routing_use_table(routing_use_of_run(workdir, STEP.value, asked)))
        print(f"written to {workdir / 'routing_use.json'}")
    if not (ROBUSTNESS.value or ROUTING_USE.value):
        print(report(evaluate_run(workdir, STEP.value, asked)))
        print(f"{'written to':16} {workdir / 'evaluation.json'}")


def robustness(workdir: AnyPath, asked: Asked) -> None:
    """Print perplexity while routing goes wrong, and draw it where a picture is asked for."""
    picture = as_path(PICTURE.value) if PICTURE.value else None
    if picture:
        check_picture(picture)
    result = robustness_of_run(workdir, STEP.value, asked, lambda line: print(line, file=stderr))
    print(robustness_table(result["trials"]))
    print(f"written to {workdir / 'robustness.json'}")
    if picture:
        draw_robustness(result["trials"], picture)
        print(f"drawn in {picture}")


if __name__ == "__main__":
    config_flags.run(main)
