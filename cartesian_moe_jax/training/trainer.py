"""What a run is made of, built from its config: mesh, layout, model structure, compiled steps."""


import jax
import numpy as np
from jaxtyping import Shaped

from cartesian_moe_jax.config import Config
from cartesian_moe_jax.data.loader import TrainingBatches, evaluation_batches, training_batches
from cartesian_moe_jax.data.packed import PackedCorpus
from cartesian_moe_jax.errors import UserError, lookup
from cartesian_moe_jax.evaluation.generation import generate_tokens, make_sampler
from cartesian_moe_jax.evaluation.perplexity import (
    Perplexity,
    make_evaluation_step,
    measure_perplexity,
)
from cartesian_moe_jax.models.parameters import with_parameters
from cartesian_moe_jax.parallel.layouts import LAYOUTS
from cartesian_moe_jax.parallel.mesh import batch_sharding, make_mesh
from cartesian_moe_jax.training.optimizer import make_optimizer
from cartesian_moe_jax.training.state import TrainState, abstract_state, build_model, create_state
from cartesian_moe_jax.training.step import make_train_step


class Trainer:
    """Makes states, batches and steps. Use its methods inside ``jax.set_mesh(trainer.mesh)``."""

    def __init__(self, config: Config, corpus: PackedCorpus):
        self.config, self.corpus = config, corpus
        self.mesh = make_mesh(config.parallel)
        self.layout = lookup(LAYOUTS, config.parallel.layout, "config.parallel.layout")
        self.optimizer = make_optimizer(config.optimizer, config.training.steps)
        self.microbatch = config.training.batch_size // config.training.accumulate
        self.evaluation_batch = config.evaluation.batch_size or self.microbatch
        _check_batches(self.mesh.size, self.microbatch, self.evaluation_batch)
        self.abstract = abstract_state(config.model, self.layout, self.optimizer, self.mesh)
        self.skeleton = jax.eval_shape(lambda: build_model(config.model, self.layout, seed=0))
        step = make_train_step(
            self.skeleton, self.optimizer, config.model, config.training.accumulate
        )
        where = jax.tree.map(lambda leaf: leaf.sharding, self.abstract)
        self.step = jax.jit(step, donate_argnums=0, out_shardings=(where, None))
        self._evaluation_step = jax.jit(make_evaluation_step(self.skeleton, config.model))

    def create_state(self) -> TrainState:
        """Return the state before the first step, every leaf where it belongs."""
        training = self.config.training
        return create_state(
            self.config.model, self.layout, self.optimizer, self.mesh, training.seed
        )

    def place(self, rows: Shaped[np.ndarray, "batch ..."]) -> jax.Array:
        """Make one global array of every process's rows."""
        return jax.make_array_from_process_local_data(batch_sharding(self.mesh), rows)

    def training_batches(self, position: int) -> TrainingBatches:
        """Return this process's rows of the global batches from ``position`` on."""
        return training_batches(
            self.corpus.split("train"),
            self.config.data.seq_len,
            self.config.training.batch_size,
            self.config.training.seed,
            jax.process_index(),
            jax.process_count(),
            position,
        )

    def evaluate(self, parameters: dict[str, jax.Array]) -> Perplexity:
        """Measure perplexity on the validation split (its first ``max_tokens``)."""
        split = self.corpus.split("validation")
        batches = evaluation_batches(
            split,
            self.config.data.seq_len,
            self.evaluation_batch,
            jax.process_index(),
            jax.process_count(),
        )
        return measure_perplexity(
            self._evaluation_step,
            parameters,
            batches,
            self.place,
            bytes_per_token=split.num_bytes / (len(split) - 1),
            max_tokens=self.config.evaluation.max_tokens,
        )

    def sample(self, parameters: dict[str, jax.Array]) -> str:
        """Return the prompt of the config and what the model writes after it."""
        asked, tokenizer = self.config.evaluation, self.corpus.tokenizer
        window = self.config.data.seq_len
        prompt = [tokenizer.end_of_text, *tokenizer.encode(asked.prompt).tolist()]
        tokens = generate_tokens(
            make_sampler(window, tokenizer.vocab_size, rows=self.mesh.size),
            with_parameters(self.skeleton, parameters),
            prompt,
            asked.sample_tokens,
            window=window,
            temperature=asked.temperature,
            seed=self.config.training.seed,
            end_of_text=tokenizer.end_of_text,
        )
        return asked.prompt + tokenizer.decode(tokens)


def _check_batches(devices: int, microbatch: int, evaluation_batch: int) -> None:
    if microbatch % devices:
        raise UserError(
            f"config.training.batch_size / config.training.accumulate = {microbatch} is not "
            f"allowed: a multiple of the {devices} devices of the mesh"
        )
    if evaluation_batch % devices:
        raise UserError(
            f"config.evaluation.batch_size={evaluation_batch} is not allowed: a multiple of "
            f"the {devices} devices of the mesh"
        )


