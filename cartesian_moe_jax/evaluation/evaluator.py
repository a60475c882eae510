"""What evaluates a model on a mesh: perplexity and use of experts on held-out text, a sample."""

import functools
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Shaped

from cartesian_moe_jax.compiler_options import step_options
from cartesian_moe_jax.config import Config
from cartesian_moe_jax.data.loader import evaluation_batches
from cartesian_moe_jax.data.parts import Part
from cartesian_moe_jax.data.shares import shares_of_evaluation
from cartesian_moe_jax.data.tokenizers import Tokenizer
from cartesian_moe_jax.evaluation.generation import Writer
from cartesian_moe_jax.evaluation.perplexity import (
    Batches,
    Evaluation,
    Parameters,
    make_evaluation_step,
    measure_perplexity,
)
from cartesian_moe_jax.evaluation.routing_use import (
    RoutingUse,
    make_counting_step,
    measure_routing_use,
    mixed_use,
)
from cartesian_moe_jax.models.build import abstract_model
from cartesian_moe_jax.models.feed_forwards import moe_layers
from cartesian_moe_jax.models.parameters import with_parameters
from cartesian_moe_jax.moe.intervention import Intervention
from cartesian_moe_jax.parallel.layouts import Layout
from cartesian_moe_jax.parallel.mesh import batch_parts, batch_sharding, batch_shares, replicated


class Evaluator:
    """Evaluates parameters that lie on ``mesh``. Use it inside ``jax.set_mesh(mesh)``."""

    def __init__(
        self,
        config: Config,
        validation: Sequence[Part],
        tokenizer: Tokenizer,
        mesh: Mesh,
        layout: Layout,
    ):
        self.config, self.mesh, self.tokenizer = config, mesh, tokenizer
        self.validation = tuple(validation)
        self.skeleton = abstract_model(config.model, layout)
        options = step_options(mesh)
        self._step = jax.jit(
            make_evaluation_step(self.skeleton, config.model), compiler_options=options
        )
        # Replicated, so that every process can read the whole of it.
        self._counting_step = jax.jit(
            make_counting_step(self.skeleton),
            out_shardings=replicated(mesh),
            compiler_options=options,
        )

    def place(self, rows: Shaped[np.ndarray, "batch ..."]) -> jax.Array:
        """Make one global array of every process's rows."""
        return jax.make_array_from_process_local_data(batch_sharding(self.mesh), rows)

    def batch_size(self) -> int:
        """Return the sequences of one batch: as configured, rounded up to the devices."""
        training = self.config.training
        wanted = self.config.evaluation.batch_size or training.batch_size // training.accumulate
        parts = batch_parts(self.mesh)
        return -(-wanted // parts) * parts

    def perplexity(
        self,
        parameters: Parameters,
        stride: int = 0,
        intervention: Intervention | None = None,
    ) -> Evaluation:
        """Measure perplexity on each part of the validation data (its first ``max_tokens``).

        ``stride``: see ``evaluation_batches``; 0: windows do not overlap. ``intervention`` is what
        is done to the routing, stacked [moe_layers, sublayers].
        """
        step = self._step
        if intervention is not None:
            step = functools.partial(self._step, intervention=intervention)
        measured = {}
        for part in self.validation:
            measured[part.name] = measure_perplexity(
                step,
                parameters,
                self._batches(part, stride),
                self.place,
                part.tokens,
            )
        return Evaluation(measured, tuple(part.weight for part in self.validation))

    def routing_use(self, parameters: Parameters, stride: int = 0) -> RoutingUse | None:
        """Measure which experts the validation data uses (its first ``max_tokens``).

        A mixture is weighted as its perplexity is. ``stride``: see ``evaluation_batches``. Returns
        None for a model without routed experts.
        """
        if not moe_layers(self.config.model):
            return None
        counts = [
            measure_routing_use(
                self._counting_step,
                parameters,
                self._batches(part, stride),
                self.place,
            )
            for part in self.validation
        ]
        return mixed_use(counts, [part.weight for part in self.validation])

    def sample(self, parameters: Parameters) -> str:
        """Return the prompt of the config and what the model writes after it."""
        asked, tokenizer = self.config.evaluation, self.tokenizer
        writer = Writer(self.config.data.seq_len, tokenizer.vocab_size, batch_parts(self.mesh))
        [tokens] = writer.write(
            with_parameters(self.skeleton, parameters),
            [[tokenizer.end_of_text, *tokenizer.encode(asked.prompt).tolist()]],
            asked.sample_tokens,
            temperature=asked.temperature,
            seed=self.config.training.seed,
            end_of_text=tokenizer.end_of_text,
        )
        return asked.prompt + tokenizer.decode(tokens)

    def _batches(self, part: Part, stride: int) -> Batches:
        what = part.tokens, self.config.data.seq_len, self.batch_size()
        most = self.config.evaluation.max_tokens
        return shares_of_evaluation(
            [evaluation_batches(*what, *share, stride, most) for share in batch_shares(self.mesh)]
        )
