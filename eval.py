"""Evaluate a run: python eval.py --workdir=DIR [--corpus=text:FILES --split=all --stride=64]."""

from pathlib import Path

from absl import flags

from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.paths import as_path
from configs import command_line, overrides, processes

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
TASKS = flags.DEFINE_string(
    "tasks", "", "Downstream tasks of the lm-evaluation-harness, by name; paper: its Table 2."
)
TASKS_DATA = flags.DEFINE_string("tasks_data", "", "Of --tasks: a folder with TASK/SPLIT.jsonl.")
SHOTS = flags.DEFINE_integer("shots", None, "Of --tasks: examples first; the task's own.", 0)
LIMIT = flags.DEFINE_integer("limit", None, "Of --tasks: questions of each; all.", 1)
MAX_TOKENS = flags.DEFINE_integer("max_tokens", None, "Predicted at most; 0: all.", lower_bound=0)
TO = flags.DEFINE_string("to", "", "A .json file, or a folder, for the numbers; the run's own.")


def main() -> None:
    """Measure what is asked for, print it, and leave it in the run directory or elsewhere."""
    # jax is imported after the flags are known to be right.
    _check_pairs()
    processes.join(stops_together=False)
    from cartesian_moe_jax.evaluation import command
    from cartesian_moe_jax.evaluation.of_run import Asked
    from cartesian_moe_jax.evaluation.of_tasks import AskedTasks
    from cartesian_moe_jax.evaluation.place import Place

    place, step = Place.of(as_path(WORKDIR.value), TO.value), STEP.value
    changes = overrides.changes()
    asked = Asked(CORPUS.value, SPLIT.value, STRIDE.value, MAX_TOKENS.value, changes)
    others = [flag for flag in (ROBUSTNESS, ROUTING_USE, TASKS) if flag.value]
    if len(others) > 1:
        place.require_folder()
    if ROBUSTNESS.value:
        picture = as_path(PICTURE.value) if PICTURE.value else None
        command.print_robustness(place, step, asked, picture)
    if ROUTING_USE.value:
        command.print_routing_use(place, step, asked)
    if TASKS.value:
        rows = Path(TASKS_DATA.value) if TASKS_DATA.value else None
        tasks = AskedTasks(TASKS.value, SHOTS.value, LIMIT.value, rows)
        command.print_tasks(place, step, tasks, changes)
    if not others:
        command.print_evaluation(place, step, asked)


def _check_pairs() -> None:
    """Raise UserError for a flag that what was asked for does not read."""
    of_tasks, of_text = (TASKS_DATA, SHOTS, LIMIT), (CORPUS, SPLIT, STRIDE, MAX_TOKENS)
    reads_text = ROBUSTNESS.value or ROUTING_USE.value or not TASKS.value
    if TASKS.present and not TASKS.value:
        raise UserError("--tasks= is not allowed: `paper`, or names of the harness's tasks")
    for flags_of, is_read, why in (
        ((PICTURE,), ROBUSTNESS.value, "goes with --robustness"),
        (of_tasks, TASKS.value, "goes with --tasks"),
        (of_text, reads_text, "does not go with --tasks: tasks have texts of their own"),
    ):
        for flag in flags_of:
            if flag.present and not is_read:
                raise UserError(f"--{flag.name}={flag.value} {why}")


if __name__ == "__main__":
    command_line.run(main, overrides.refusal, "stopped")
