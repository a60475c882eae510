"""The end of a run whose loss is no number: later checkpoints would only replace good ones."""

import math

from cartesian_moe_jax.errors import AgreedError
from cartesian_moe_jax.runs.checkpoints import Checkpoints
from cartesian_moe_jax.training.state import TrainState

TO_DO = (
    "The same command repeats these steps as they were: another --workdir with a lower "
    "config.optimizer.learning_rate, more warmup_steps or a smaller clip_norm is wanted"
)


class DivergedError(AgreedError):
    """The loss, or the gradient, of a run is not finite; ``fact`` says since when."""

    def __init__(self, fact: str, checkpoints: Checkpoints):
        newest = checkpoints.newest()
        kept = "there is no checkpoint" if newest is None else f"step {newest} is the newest"
        super().__init__(f"{fact}; {kept} in {checkpoints.folder}. {TO_DO}")
        self.fact = fact


def require_finite_state(state: TrainState, checkpoints: Checkpoints) -> None:
    """Raise DivergedError if a step until this one was broken; it waits for that step."""
    if since := int(state.not_finite_since):
        checkpoints.wait()
        raise DivergedError(
            f"the loss or its gradient is not finite since step {since}", checkpoints
        )


def require_finite_validation(loss: float, checkpoints: Checkpoints) -> None:
    """Raise DivergedError if the loss after the last step is not finite, as that before it was."""
    if not math.isfinite(loss):
        raise DivergedError(f"the validation loss after the last step is {loss}", checkpoints)
