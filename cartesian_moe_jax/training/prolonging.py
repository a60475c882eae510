"""Another plan for a run that was begun: allowed where its steps until now would be the same."""

from collections.abc import Sequence

from cartesian_moe_jax.config import Config
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.paths import reported
from cartesian_moe_jax.runs.checkpoints import Checkpoints
from cartesian_moe_jax.runs.directory import RunDirectory
from cartesian_moe_jax.settings import differences
from cartesian_moe_jax.training.schedule import SCHEDULES, steps_before_decay


def has_new_plan(run: RunDirectory, config: Config) -> bool:
    """Say whether the run in the folder was begun with other steps, or another schedule.

    Raises UserError unless it may go on with those of ``config``: if its newest checkpoint is
    behind the new end, or the learning rates that led to it were others. Nothing is written.
    """
    changes = "; ".join(_changes(run, config))
    if not changes:
        return False
    steps = kept_steps(run)
    if run.has("result.json") and not steps:
        raise UserError(f"{run.path} cannot go on with {changes}: its checkpoints are gone")
    newest, last = max(steps, default=0), config.training.steps
    if newest > last:
        raise UserError(
            f"config.training.steps={last} is not allowed: {run.path} has a checkpoint of step "
            f"{newest}"
        )
    before = steps_before_decay(run.config().optimizer, run.config().training.steps)
    after = steps_before_decay(config.optimizer, last)
    if newest > before:
        early = [step for step in steps if step <= min(before, after)]
        raise UserError(_why_not(run, changes, before, newest, early))
    if newest > after:
        raise UserError(
            f"{run.path} cannot go on with {changes}: so its learning rate would decay from step "
            f"{after + 1} on, and it was trained until step {newest} without"
        )
    return True


def kept_steps(run: RunDirectory) -> list[int]:
    """Return the steps of the run's checkpoints, in rising order."""
    with reported("read", run.checkpoints):
        if not run.checkpoints.exists():
            return []
    with Checkpoints(run.checkpoints, read_only=True) as checkpoints:
        return checkpoints.steps()


def _changes(run: RunDirectory, config: Config) -> list[str]:
    return differences(run.config(), config, plan=True) if run.has("config.json") else []


def _why_not(
    run: RunDirectory, changes: str, before: int, newest: int, early: Sequence[int]
) -> str:
    """Say that a run is in its decay, and what can be done; ``early`` are steps to go on from."""
    name = run.config().optimizer.schedule
    if early:
        ways = (
            f"it could from step {early[-1]}, if the later checkpoints were removed from "
            f"{run.checkpoints}, and"
        )
    else:
        names = [name for name, schedule in SCHEDULES.items() if schedule.can_be_prolonged]
        ways = f"runs of schedule {' and '.join(names)} can until they decay, and"
    return (
        f"{run.path} cannot go on with {changes}: its schedule {name} decays from step "
        f"{before + 1} on, and it was trained until step {newest}; {ways} "
        f"config.training.initial={run.path} begins another run with its parameters"
    )
