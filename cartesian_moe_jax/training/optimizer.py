"""The optimizer: clip, then AdamW with warm-up and cosine decay."""

from collections.abc import Callable, Mapping, Sequence

import optax
from jaxtyping import Array, Float

from cartesian_moe_jax.config import OptimizerConfig
from cartesian_moe_jax.errors import UserError, lookup

Parameters = Mapping[str, Float[Array, "..."]]


def learning_rate_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Linear from 0 to the peak in warmup_steps, then a cosine to the final rate at ``steps``."""
    if config.warmup_steps >= steps:
        raise UserError(
            f"config.optimizer.warmup_steps={config.warmup_steps} is not allowed: "
            f"below config.training.steps={steps}"
        )
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if config.warmup_steps else config.learning_rate,
        peak_value=config.learning_rate,
        warmup_steps=config.warmup_steps,
        decay_steps=steps,
        end_value=config.final_learning_rate * config.learning_rate,
    )


def is_decayed(name: str) -> bool:
    """Say whether weight decay acts on a parameter: not on biases, nor on norms inside layers.

    The gain of the final norm is decayed, as in the authors' trainer (its exclusion list names
    ``bias`` and ``layernorm.weight``, and the final norm is called ``norm.weight``).
    """
    inside_a_layer = name.startswith("segments/")
    return not (name.endswith("bias") or (name.endswith("gain") and inside_a_layer))


def rate_multiplier(config: OptimizerConfig, name: str, shape: Sequence[int]) -> float:
    """Return what multiplies the learning rate of a parameter: 1 but for the routed experts'."""
    if "/experts/" not in name:
        return 1.0
    scaled_by_width = config.expert_reference_width and name.endswith("/down")
    return config.expert_rate * (
        config.expert_reference_width / shape[-2] if scaled_by_width else 1
    )


def _multiply_rates(config: OptimizerConfig) -> list[optax.GradientTransformation]:
    """Return the stage that does, or none: without it the state is as it always was."""
    if config.expert_rate == 1 and not config.expert_reference_width:
        return []
    return [
        optax.stateless(
            lambda updates, _: {
                name: rate_multiplier(config, name, update.shape) * update
                for name, update in updates.items()
            }
        )
    ]


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


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Build the optimizer of a run of ``steps`` steps, clipping included.

    A multiplied rate moves the step and the decay alike; clipping sees the gradients before it.
    """
    build = lookup(OPTIMIZERS, config.name, "config.optimizer.name")
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()
    moves = build(config, learning_rate_schedule(config, steps))
    return optax.chain(clip, moves, *_multiply_rates(config))
