"""The optimizer: clip, then AdamW by the schedule of the learning rate."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float

from cartesian_moe_jax.config import OptimizerConfig
from cartesian_moe_jax.errors import lookup
from cartesian_moe_jax.training.schedule import learning_rate_schedule

Updates = Mapping[str, Float[Array, "..."]]


class Rates(NamedTuple):
    """Learning rates of a run, as arguments of its step: runs with other rates share a program."""

    peak: Float[ArrayLike, ""]
    experts: Float[ArrayLike, ""]
    """Multiplies the rate of the routed experts."""

    @classmethod
    def of(cls, config: OptimizerConfig) -> "Rates":
        """Return those that a config names."""
        return cls(np.float32(config.learning_rate), np.float32(config.expert_rate))


def is_decayed(name: str) -> bool:
    """Say whether weight decay acts on a parameter: not on biases, nor on norms inside layers.

    The gain of the final norm is decayed, as in the authors' trainer (its exclusion list names
    ``bias`` and ``layernorm.weight``, and the final norm is called ``norm.weight``).
    """
    inside_a_layer = name.startswith("segments/")
    return not (name.endswith("bias") or (name.endswith("gain") and inside_a_layer))


def _rate_multiplier(
    config: OptimizerConfig, experts: Float[ArrayLike, ""], name: str, shape: Sequence[int]
) -> Float[ArrayLike, ""]:
    """Return what multiplies the learning rate of a parameter: 1 but for the routed experts'."""
    if "/experts/" not in name:
        return 1.0
    scaled_by_width = config.expert_reference_width and name.endswith("/down")
    return experts * (config.expert_reference_width / shape[-2] if scaled_by_width else 1.0)


def _with_multipliers(
    moves: optax.GradientTransformation, config: OptimizerConfig, experts: Float[ArrayLike, ""]
) -> optax.GradientTransformation:
    """Return ``moves`` with the rate of the routed experts multiplied; the state stays its own."""

    def update(gradients: Updates, state: Any, parameters: Updates) -> tuple[Updates, Any]:
        updates, state = moves.update(gradients, state, parameters)
        multiplied = {
            name: _rate_multiplier(config, experts, name, value.shape) * value
            for name, value in updates.items()
        }
        return multiplied, state

    return optax.GradientTransformation(moves.init, update)


def _adamw(config: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    return optax.adamw(
        schedule,
        b1=config.beta1,
        b2=config.beta2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=lambda parameters: {name: is_decayed(name) for name in parameters},
    )


def _sgd(config: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    return optax.sgd(schedule)


OPTIMIZERS: Mapping[
    str, Callable[[OptimizerConfig, optax.Schedule], optax.GradientTransformation]
] = {"adamw": _adamw, "sgd": _sgd}
"""The optimizers that ``config.optimizer.name`` names."""


def make_optimizer(
    config: OptimizerConfig, steps: int, rates: Rates | None = None
) -> optax.GradientTransformation:
    """Build the optimizer of a run of ``steps`` steps, clipping included.

    A multiplied rate moves the step and the decay alike; clipping sees the gradients before it.
    ``rates``, which may be traced, are in place of the config's.
    """
    build = lookup(OPTIMIZERS, config.name, "config.optimizer.name")
    rates = Rates.of(config) if rates is None else rates
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    moves = build(config, learning_rate_schedule(config, steps, rates.peak))
    return optax.chain(clip, _with_multipliers(moves, config, rates.experts))
