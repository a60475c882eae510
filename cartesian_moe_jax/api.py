"""The public face: load a run, ask it for logits, text or perplexity."""

import os
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from cartesian_moe_jax.config import Config
from cartesian_moe_jax.data.tokenizers import Tokenizer, build_tokenizer
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.evaluation.generation import generate_tokens, make_sampler
from cartesian_moe_jax.models.build import abstract_model, abstract_parameters
from cartesian_moe_jax.models.language_model import LanguageModel
from cartesian_moe_jax.models.parameters import with_parameters
from cartesian_moe_jax.moe.cartesian import CartesianProductLayer
from cartesian_moe_jax.moe.routing import RoutingStats
from cartesian_moe_jax.moe.shape import SubLayerShape
from cartesian_moe_jax.parallel.layouts import LAYOUTS
from cartesian_moe_jax.parallel.mesh import single_device_mesh
from cartesian_moe_jax.paths import as_path
from cartesian_moe_jax.runs.checkpoints import Checkpoints
from cartesian_moe_jax.runs.directory import RunDirectory

__all__ = [
    "CartesianProductLayer",
    "Config",
    "LanguageModel",
    "RoutingStats",
    "SubLayerShape",
    "TrainedModel",
    "UserError",
    "load",
]


class TrainedModel:
    """A trained language model with its tokenizer and config, on one device."""

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, config: Config, step: int):
        self.model, self.tokenizer, self.config, self.step = model, tokenizer, config, step
        self._logits = jax.jit(lambda model, tokens: model(tokens)[0])
        self._sampler = make_sampler(config.data.seq_len, tokenizer.vocab_size)

    def logits(
        self,
        tokens: Int[Array, "batch seq"] | Int[np.ndarray, "batch seq"] | Sequence[Sequence[int]],
    ) -> Float[Array, "batch seq vocab"]:
        """Return float32 logits of the token that follows each position. Compiles per shape.

        Raises UserError if a token id is not in the model's vocabulary.
        """
        tokens = np.asarray(tokens)
        self._check(tokens)
        return self._logits(self.model, jnp.asarray(tokens, jnp.int32))

    def generate(
        self,
        prompt: str | Sequence[int],
        max_new_tokens: int = 64,
        temperature: float = 0.8,
        seed: int = 0,
    ) -> str:
        """Return ``prompt`` (text or token ids) and what the model writes after it.

        Stops at an end-of-text token. ``temperature=0`` takes the most likely token each time.
        Raises UserError for a negative temperature or length, or a token id out of range.
        """
        if temperature < 0 or max_new_tokens < 0:
            raise UserError(
                f"temperature={temperature}, max_new_tokens={max_new_tokens}: at least 0 wanted"
            )
        given = self.tokenizer.encode(prompt).tolist() if isinstance(prompt, str) else list(prompt)
        self._check(np.asarray(given, np.int64))
        tokens = generate_tokens(
            self._sampler,
            self.model,
            [self.tokenizer.end_of_text, *given],
            max_new_tokens,
            window=self.config.data.seq_len,
            temperature=temperature,
            seed=seed,
            end_of_text=self.tokenizer.end_of_text,
        )
        return self.tokenizer.decode([*given, *tokens])

    def _check(self, tokens: Int[np.ndarray, "..."]) -> None:
        vocab_size = self.config.model.vocab_size
        wrong = tokens[(tokens < 0) | (tokens >= vocab_size)]
        if wrong.size:
            raise UserError(f"token id {wrong[0]} is not allowed: 0 to {vocab_size - 1}")


def load(workdir: str | os.PathLike[str], step: int | None = None) -> TrainedModel:
    """Load the newest checkpoint of a run (or that of ``step``) onto one device.

    Raises UserError if ``workdir`` holds no run, the run has no such checkpoint, or it does not
    fit the run's config.
    """
    run = RunDirectory.of_existing(as_path(workdir))
    config = run.config()
    layout, mesh = LAYOUTS["data"], single_device_mesh()
    skeleton = abstract_model(config.model, layout)
    wanted = abstract_parameters(skeleton, layout, mesh)
    with Checkpoints(run.checkpoints, read_only=True) as checkpoints:
        step = checkpoints.choose(step)
        items, _ = checkpoints.restore(step, {"parameters": wanted})
    tokenizer = build_tokenizer(run.read_json("tokenizer.json"))
    return TrainedModel(with_parameters(skeleton, items["parameters"]), tokenizer, config, step)
