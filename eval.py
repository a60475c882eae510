"""Evaluate a run on its validation split: python eval.py --workdir=DIR."""

from pathlib import Path

from absl import flags

from cartesian_moe_jax.evaluation.of_run import evaluate_run
from configs import flags as config_flags

WORKDIR = flags.DEFINE_string("workdir", None, "The run directory.", required=True)
STEP = flags.DEFINE_integer("step", None, "The checkpoint; the newest if not given.")


def main() -> None:
    """Print the perplexity, and leave it in evaluation.json."""
    workdir = Path(WORKDIR.value).expanduser()
    result = evaluate_run(workdir, STEP.value)
    for name, value in result.items():
        print(f"{name:16} {value}")
    print(f"{'written to':16} {workdir / 'evaluation.json'}")


if __name__ == "__main__":
    config_flags.run(main)
