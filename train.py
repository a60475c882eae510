"""Train, or continue, a run: python train.py --config=configs/quickstart.py --workdir=DIR."""

import signal

from absl import flags

from cartesian_moe_jax.paths import as_path
from cartesian_moe_jax.training.memory import take_memory
from configs import command_line, processes
from configs import flags as config_flags

WORKDIR = flags.DEFINE_string("workdir", None, "The run directory.", required=True)


def main() -> int:
    """Train; a run that is stopped says how to go on."""
    config = config_flags.config()
    take_memory(config.model)
    # Not before: jax takes a second to import, and the process may have begun anew.
    processes.join(stops_together=True)
    from cartesian_moe_jax.parallel.processes import say
    from cartesian_moe_jax.training.loop import train
    from cartesian_moe_jax.training.summary import summary

    workdir = as_path(WORKDIR.value)
    outcome = train(config, workdir)
    if outcome.result is None:
        say(f"stopped at step {outcome.stopped_at}: the same command continues {workdir}")
        return 128 + (outcome.signal or signal.SIGTERM)
    if outcome.was_done:
        say(f"{workdir} is done; its result again (remove the folder to train anew):")
    say(summary(outcome.result, workdir))
    return 0


if __name__ == "__main__":
    command_line.run(main)
