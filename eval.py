"""Evaluate a run: python eval.py --workdir=DIR [--corpus=text:FILES --split=all --stride=64]."""

from absl import flags

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
MAX_TOKENS = flags.DEFINE_integer("max_tokens", None, "Predicted at most; 0: all.", lower_bound=0)
TO = flags.DEFINE_string("to", "", "A .json file, or a folder, for the numbers; the run's own.")


def main() -> None:
    """Measure what is asked for, print it, and leave it in the run directory or elsewhere."""
    # jax is imported after the flags are known to be right.
    processes.join(stops_together=False)
    from cartesian_moe_jax.evaluation import command
    from cartesian_moe_jax.evaluation.of_run import Asked
    from cartesian_moe_jax.evaluation.place import Place

    place, step = Place.of(as_path(WORKDIR.value), TO.value), STEP.value
    changes = overrides.changes()
    asked = Asked(CORPUS.value, SPLIT.value, STRIDE.value, MAX_TOKENS.value, changes)
    if ROBUSTNESS.value and ROUTING_USE.value:
        place.require_folder()
    if ROBUSTNESS.value:
        picture = as_path(PICTURE.value) if PICTURE.value else None
        command.print_robustness(place, step, asked, picture)
    if ROUTING_USE.value:
        command.print_routing_use(place, step, asked)
    if not (ROBUSTNESS.value or ROUTING_USE.value):
        command.print_evaluation(place, step, asked)


if __name__ == "__main__":
    command_line.run(main, overrides.refusal)
