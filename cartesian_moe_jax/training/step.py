"""One training step: forward, backward, update."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from cartesian_moe_jax.config import ModelConfig
from cartesian_moe_jax.models.language_model import LanguageModel
from cartesian_moe_jax.models.parameters import trainable, with_parameters
from cartesian_moe_jax.models.training_loss import mean_loss
from cartesian_moe_jax.moe.routing import RoutingStats
from cartesian_moe_jax.training.state import TrainState

Parameters = dict[str, Float[Array, "..."]]


class StepReport(NamedTuple):
    """What one step says of itself. The loss holds no auxiliary loss."""

    loss: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    """Before clipping."""
    routing: RoutingStats | None
    """Of all MoE sub-layers, [moe_layers, sublayers, ...]; None for a dense model."""


def objective(
    model: LanguageModel, tokens: Int[Array, "batch seq_plus_1"], config: ModelConfig
) -> tuple[Float[Array, ""], tuple[Float[Array, ""], RoutingStats | None]]:
    """Return what is minimised, and apart from it the language-model loss and statistics."""
    hidden, stats = model.hidden(tokens[:, :-1], train=True)
    with jax.named_scope("head"):
        loss = mean_loss(hidden, model.head[...], tokens[:, 1:], config.loss_chunk, model.layout)
    if stats is None:
        return loss, (loss, None)
    auxiliary = config.moe.balance_loss * jnp.sum(stats.balance_loss)
    auxiliary += config.moe.z_loss * jnp.sum(stats.z_loss)
    return loss + auxiliary, (loss, stats)


def make_train_step(
    skeleton: LanguageModel,
    optimizer: optax.GradientTransformation,
    config: ModelConfig,
    accumulate: int = 1,
) -> Callable[[TrainState, Int[Array, "batch seq_plus_1"]], tuple[TrainState, StepReport]]:
    """Return the step for a model of this (abstract) structure; compile it with donated state."""

    def microbatch(
        parameters: Parameters, tokens: Int[Array, "batch seq_plus_1"]
    ) -> tuple[Parameters, tuple[Float[Array, ""], RoutingStats | None]]:
        def of(moved: Parameters):
            return objective(with_parameters(skeleton, parameters | moved), tokens, config)

        return jax.grad(of, has_aux=True)(trainable(parameters))

    def step(
        state: TrainState, tokens: Int[Array, "batch seq_plus_1"]
    ) -> tuple[TrainState, StepReport]:
        gradients, (loss, stats) = _mean_over_microbatches(
            microbatch, state.parameters, tokens, accumulate
        )
        with jax.named_scope("optimizer"):
            moved = trainable(state.parameters)
            updates, optimizer_state = optimizer.update(gradients, state.optimizer, moved)
            parameters = state.parameters | optax.apply_updates(moved, updates)
            report = StepReport(loss, optax.tree.norm(gradients), stats)
        since = _not_finite_since(state, report)
        return TrainState(state.step + 1, parameters, optimizer_state, since), report

    return step


def _not_finite_since(state: TrainState, report: StepReport) -> Int[Array, ""]:
    """Keep the first broken step on the device: nobody has to look at every one."""
    broken = ~jnp.isfinite(report.loss + report.gradient_norm)
    known = state.not_finite_since
    return jnp.where(broken & (known == 0), state.step + 1, known)


def _mean_over_microbatches(
    microbatch: Callable, parameters: Parameters, tokens: Int[Array, "batch seq"], count: int
):
    """Average gradients and reports over ``count`` microbatches, one at a time in memory.

    Microbatch i holds rows i, i + count, ...: every device cuts its own rows, none move.
    """
    if count == 1:
        return microbatch(parameters, tokens)
    cut = tokens.reshape(-1, count, tokens.shape[-1]).swapaxes(0, 1)
    zeros = jax.tree.map(
        lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(microbatch, parameters, cut[0])
    )

    def add(total, tokens: Int[Array, "batch seq"]):
        return jax.tree.map(jnp.add, total, microbatch(parameters, tokens)), None

    total, _ = jax.lax.scan(add, zeros, cut)
    return jax.tree.map(lambda x: x / count, total)
