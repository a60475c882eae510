"""The learning rate, step by step: a linear warm-up, and what follows it."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import ArrayLike, Float, Int

from cartesian_moe_jax.config import OptimizerConfig
from cartesian_moe_jax.errors import UserError, lookup

ENDINGS = {name: getattr(OptimizerConfig, name) for name in ("decay_steps", "final_learning_rate")}
"""Fields that say how a schedule ends, and what they are where nobody says so."""


class Schedule(NamedTuple):
    """What follows the warm-up, as shares of the peak."""

    share: Callable[[OptimizerConfig, int], optax.Schedule]
    """Of a config and the number of steps that follow: the share by the steps since the warm-up."""
    before_decay: Callable[[OptimizerConfig, int], int]
    """Of a config and the run's steps: how many of the first have a rate that depends on neither
    the run's end nor its decay. So long, all schedules are the same."""
    can_be_prolonged: bool
    reads: tuple[str, ...] = ("final_learning_rate",)
    """Those of ``ENDINGS`` that it has."""


def _cosine(config: OptimizerConfig, steps: int) -> optax.Schedule:
    return optax.cosine_decay_schedule(1.0, steps, config.final_learning_rate)


def _linear(config: OptimizerConfig, steps: int) -> optax.Schedule:
    return optax.linear_schedule(1.0, config.final_learning_rate, steps)


def _constant(config: OptimizerConfig, steps: int) -> optax.Schedule:
    return optax.constant_schedule(1.0)


def _stable_then_decay(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Decay as 1 - sqrt, which arXiv 2405.18392 finds better than a line, to the final rate."""
    length, final = config.decay_steps, config.final_learning_rate

    def decay(count: Int[ArrayLike, ""]) -> Float[ArrayLike, ""]:
        return final + (1.0 - final) * (1.0 - jnp.sqrt(jnp.clip(count / length, 0.0, 1.0)))

    return optax.join_schedules([optax.constant_schedule(1.0), decay], [steps - length])


def _the_warm_up(config: OptimizerConfig, steps: int) -> int:
    return config.warmup_steps


SCHEDULES: Mapping[str, Schedule] = {
    "cosine": Schedule(_cosine, _the_warm_up, can_be_prolonged=False),
    "linear": Schedule(_linear, _the_warm_up, can_be_prolonged=False),
    "constant": Schedule(_constant, lambda c, steps: steps, can_be_prolonged=True, reads=()),
    "wsd": Schedule(
        _stable_then_decay,
        lambda c, steps: steps - c.decay_steps,
        can_be_prolonged=True,
        reads=("decay_steps", "final_learning_rate"),
    ),
}
"""What ``config.optimizer.schedule`` names."""


def learning_rate_schedule(
    config: OptimizerConfig, steps: int, peak: Float[ArrayLike, ""] | None = None
) -> optax.Schedule:
    """Return the rate by the steps taken: from 0 to the peak in warmup_steps, then the schedule's.

    ``peak`` is in place of the config's. Raises UserError for fields that do not fit the schedule
    or a run of so many ``steps``.
    """
    schedule = _checked(config, steps)
    of_peak = optax.join_schedules(
        [
            optax.linear_schedule(0.0 if config.warmup_steps else 1.0, 1.0, config.warmup_steps),
            schedule.share(config, steps - config.warmup_steps),
        ],
        [config.warmup_steps],
    )
    peak = config.learning_rate if peak is None else peak
    return lambda count: peak * of_peak(count)


def steps_before_decay(config: OptimizerConfig, steps: int) -> int:
    """Return how many steps of a run of ``steps`` are those of a run of any other length."""
    return _checked(config, steps).before_decay(config, steps)


def fork_steps(config: OptimizerConfig, steps: int) -> tuple[int, ...]:
    """Return the last step before a decay which leaves the end open until then, if there is one.

    From its checkpoint the run can go on to any other end.
    """
    step = steps_before_decay(config, steps)
    return (step,) if _checked(config, steps).can_be_prolonged and 0 < step < steps else ()


def _checked(config: OptimizerConfig, steps: int) -> Schedule:
    schedule = lookup(SCHEDULES, config.schedule, "config.optimizer.schedule")
    if config.warmup_steps >= steps:
        raise UserError(
            f"config.optimizer.warmup_steps={config.warmup_steps} is not allowed: "
            f"below config.training.steps={steps}"
        )
    for name in ENDINGS.keys() - set(schedule.reads):
        if (value := getattr(config, name)) != ENDINGS[name]:
            raise UserError(
                f"config.optimizer.{name}={value} is not allowed: "
                f"config.optimizer.schedule={config.schedule!r} has none"
            )
    most = steps - config.warmup_steps
    if "decay_steps" in schedule.reads and not 1 <= config.decay_steps <= most:
        raise UserError(
            f"config.optimizer.decay_steps={config.decay_steps} is not allowed: 1 to "
            f"config.training.steps - config.optimizer.warmup_steps = {most}"
        )
    return schedule
