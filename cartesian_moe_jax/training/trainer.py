"""What trains a model, built from its config: mesh, layout, optimizer, compiled step."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from cartesian_moe_jax.compiler_options import train_step_options
from cartesian_moe_jax.config import Config
from cartesian_moe_jax.data.loader import training_batches
from cartesian_moe_jax.data.prepared import PreparedData
from cartesian_moe_jax.data.shares import SharesOfBatches
from cartesian_moe_jax.data.tokenizers import require_same_tokenizer
from cartesian_moe_jax.data.windows import WindowSource
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.evaluation.evaluator import Evaluator
from cartesian_moe_jax.models.build import abstract_model, abstract_parameters
from cartesian_moe_jax.models.fitting_mesh import mesh_of
from cartesian_moe_jax.parallel.layouts import Layout, layout_of
from cartesian_moe_jax.parallel.mesh import batch_parts, batch_shares
from cartesian_moe_jax.runs.checkpoints import ARRAYS, Checkpoints
from cartesian_moe_jax.training.optimizer import Rates, make_optimizer
from cartesian_moe_jax.training.state import (
    TrainState,
    abstract_state,
    first_state,
    make_create_state,
)
from cartesian_moe_jax.training.step import StepReport, make_train_step


class Trainer:
    """Makes states, batches and steps. Use its methods inside ``jax.set_mesh(trainer.mesh)``."""

    def __init__(self, config: Config, data: PreparedData):
        self.config, self.data = config, data
        _check_data(config, data)
        self.mesh, self.layout, self.optimizer = _checked(config)
        self.evaluator = Evaluator(config, data.validation, data.tokenizer, self.mesh, self.layout)
        self.place = self.evaluator.place
        self.abstract = abstract_state(config.model, self.layout, self.optimizer, self.mesh)
        self.rates, self.seed = Rates.of(config.optimizer), np.uint32(config.training.seed)
        self.jitted_create_state = make_create_state(
            config.model, self.layout, self.optimizer, self.mesh
        )
        where = jax.tree.map(lambda leaf: leaf.sharding, self.abstract)
        self.jitted_step = jax.jit(
            self._step,
            donate_argnums=0,
            out_shardings=(where, None),
            compiler_options=train_step_options(self.mesh, config.training.accumulate),
        )

    def _step(
        self, state: TrainState, tokens: Int[Array, "batch seq_plus_1"], rates: Rates
    ) -> tuple[TrainState, StepReport]:
        config = self.config
        optimizer = make_optimizer(config.optimizer, config.training.steps, rates)
        step = make_train_step(
            self.evaluator.skeleton, optimizer, config.model, config.training.accumulate
        )
        return step(state, tokens)

    def step(
        self, state: TrainState, tokens: Int[Array, "batch seq_plus_1"]
    ) -> tuple[TrainState, StepReport]:
        """Return the state after one step, compiled at the first; ``state`` is used up."""
        return self.jitted_step(state, tokens, self.rates)

    def create_state(self) -> TrainState:
        """Return the state before the first step, every leaf where it belongs."""
        return self.jitted_create_state(self.seed)

    def create_state_of(self, parameters: dict[str, Float[Array, "..."]]) -> TrainState:
        """Return the state before the first step that moves these parameters, which are used up."""
        create = jax.jit(
            lambda given: first_state(given, self.optimizer),
            donate_argnums=0,
            out_shardings=jax.tree.map(lambda leaf: leaf.sharding, self.abstract),
        )
        return create(parameters)

    def restore_state(
        self, checkpoints: Checkpoints, step: int
    ) -> tuple[TrainState, dict[str, Any]]:
        """Return the state of a checkpoint, and the progress saved with it.

        Raises UserError if the checkpoint does not fit, or the corpus is not what it was.
        """
        abstract = {name: getattr(self.abstract, name) for name in ARRAYS}
        items, progress = checkpoints.restore(step, abstract)
        mine = self.data.tokenizer.identity()
        where = f"the checkpoint of step {step}"
        # Checkpoints of earlier versions do not say; their data hash differs anyway.
        theirs = progress.get("tokenizer", mine)
        require_same_tokenizer(theirs, where, mine, "config.data.tokenizer")
        if progress["data_hash"] != self.data.content_hash:
            raise UserError(
                f"config.data.corpus={self.config.data.corpus!r} has changed since step {step}: "
                f"its hash was {progress['data_hash'][:12]}, now {self.data.content_hash[:12]}"
            )
        where = self.abstract.step.sharding
        step_array, none = (jax.device_put(jnp.asarray(n, jnp.int32), where) for n in (step, 0))
        return TrainState(step_array, **items, not_finite_since=none), progress

    def batches(self, position: int) -> SharesOfBatches:
        """Return this process's rows of the global batches from ``position`` on."""
        training = self.config.training
        where = self.data.train, self.config.data.seq_len, training.batch_size, training.seed
        return SharesOfBatches(
            [training_batches(*where, *share, position) for share in batch_shares(self.mesh)]
        )


def check_trainable(config: Config) -> None:
    """Raise UserError for what is wrong whatever the data: preparing data may take hours."""
    mesh, layout, _ = _checked(config)
    abstract_parameters(abstract_model(config.model, layout), layout, mesh)


def _checked(config: Config) -> tuple[Mesh, Layout, optax.GradientTransformation]:
    mesh = mesh_of(config)
    check_batch(config, batch_parts(mesh))
    layout = layout_of(config.parallel)
    return mesh, layout, make_optimizer(config.optimizer, config.training.steps)


def check_batch(config: Config, parts: int) -> None:
    """Raise UserError if the batch does not divide into so many parts."""
    training = config.training
    if training.batch_size % (training.accumulate * parts):
        raise UserError(
            f"config.training.batch_size={training.batch_size} is not allowed: a multiple of "
            f"accumulate x devices = {training.accumulate} x {parts} (along the axes "
            "data, fsdp and expert)"
        )


def _check_data(config: Config, data: PreparedData) -> None:
    for part in data.train:
        WindowSource(part.tokens, config.data.seq_len)  # too short a part fails here
    if not data.validation:
        raise UserError(
            f"config.data.validation_share={config.data.validation_share} leaves the "
            f"validation split of {config.data.corpus!r} without text"
        )
