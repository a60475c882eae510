"""The public face: load a run, ask it for logits, text or perplexity."""

import functools
import numbers
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from cartesian_moe_jax.config import Config, ParallelConfig
from cartesian_moe_jax.data.tokenizers import Tokenizer, build_tokenizer
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.evaluation.generation import Writer
from cartesian_moe_jax.evaluation.of_tasks import harness_model
from cartesian_moe_jax.evaluation.of_texts import TextEvaluator
from cartesian_moe_jax.evaluation.perplexity import Perplexity
from cartesian_moe_jax.evaluation.prompts import Prompt, Prompts, read_prompts
from cartesian_moe_jax.interop.official_model import is_official, read_model
from cartesian_moe_jax.interop.tokenizer_files import find_tokenizer
from cartesian_moe_jax.models.build import abstract_model
from cartesian_moe_jax.models.in_use import narrowed
from cartesian_moe_jax.models.language_model import LanguageModel
from cartesian_moe_jax.models.parameters import placed, with_parameters
from cartesian_moe_jax.models.vocabulary import with_vocabulary
from cartesian_moe_jax.moe.cartesian import CartesianProductLayer
from cartesian_moe_jax.moe.routing import RouterContext, RoutingStats
from cartesian_moe_jax.moe.shape import SubLayerShape
from cartesian_moe_jax.parallel import mesh as meshes
from cartesian_moe_jax.parallel.layouts import LAYOUTS, Layout
from cartesian_moe_jax.paths import as_path
from cartesian_moe_jax.runs.directory import RunDirectory
from cartesian_moe_jax.runs.parameters import load_run

if TYPE_CHECKING:
    from cartesian_moe_jax.evaluation.downstream.harness import HarnessModel

__all__ = [
    "LAYOUTS",
    "CartesianProductLayer",
    "Config",
    "LanguageModel",
    "Layout",
    "RouterContext",
    "RoutingStats",
    "SubLayerShape",
    "TrainedModel",
    "UserError",
    "load",
    "make_mesh",
    "placed",
]

SEEDS = 2**32
"""How many there are, of texts as of training."""


def make_mesh(*, data: int = -1, fsdp: int = 1, expert: int = 1, tensor: int = 1) -> Mesh:
    """Return a mesh of all devices, to be put in force by ``jax.set_mesh``.

    The sizes are numbers of devices; that of one axis may be -1, for those that are left. The
    batch is split over the first three. Raises UserError if they don't fit.
    """
    return meshes.make_mesh(ParallelConfig(data=data, fsdp=fsdp, expert=expert, tensor=tensor))


class TrainedModel:
    """A trained language model with its tokenizer and config, on one device."""

    def __init__(
        self, model: LanguageModel, tokenizer: Tokenizer | None, config: Config, step: int
    ):
        self.model, self.tokenizer, self.config, self.step = model, tokenizer, config, step
        self._logits = jax.jit(lambda model, tokens: model(tokens)[0])

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
        prompt: Prompts,
        max_new_tokens: int = 64,
        temperature: float = 0.8,
        seed: int = 0,
    ) -> str | list[str]:
        """Return ``prompt`` (text or token ids) and what the model writes after it.

        Of a list of prompts, all at once, a list. Stops at an end-of-text token. ``temperature=0``
        takes the most likely token each time. Compiles anew for another number of prompts.
        Raises UserError for a number or a token id out of range, and for what is no prompt.
        """
        if not temperature >= 0 or max_new_tokens < 0:
            raise UserError(
                f"temperature={temperature}, max_new_tokens={max_new_tokens}: at least 0 wanted"
            )
        if not isinstance(seed, numbers.Integral) or not 0 <= seed < SEEDS:
            raise UserError(f"seed={seed} is not allowed: 0 to 2**32 - 1")
        tokenizer = self._needed_tokenizer()
        prompts, is_one = read_prompts(prompt)
        given = [self._tokens(each) for each in prompts]
        if not given:
            return []
        written = self._writer.write(
            self._narrow_model,
            [[tokenizer.end_of_text, *tokens] for tokens in given],
            max_new_tokens,
            temperature=temperature,
            seed=seed,
            end_of_text=tokenizer.end_of_text,
        )
        texts = [tokenizer.decode([*g, *w]) for g, w in zip(given, written, strict=True)]
        return texts[0] if is_one else texts

    def perplexity(self, texts: str | Sequence[Any], stride: int = 0) -> Perplexity:
        """Return how well texts are predicted: ``.perplexity`` per token, ``.bits_per_byte``, ...

        They are joined as ``eval.py`` joins the documents of a corpus, with an end-of-text token
        behind each, and predicted in its windows: a text sees what precedes it in its window. To
        measure each by itself, call this for each. ``stride``: as of ``eval.py``.
        Raises UserError where there is no text, or the stride is out of range.
        """
        return self._text_evaluator.perplexity(self.model, texts, stride)

    def harness(self, batch_size: int = 8) -> "HarnessModel":
        """Return this model for the lm-evaluation-harness: ``lm_eval.simple_evaluate(model=...)``.

        It reads ``batch_size`` windows of text, or as many tokens, at once. Raises UserError where
        that package is not installed.
        """
        tokenizer, mesh = self._needed_tokenizer(), meshes.single_device_mesh()
        return harness_model(
            self.model, tokenizer, self.config, mesh, batch_size=batch_size, show=True
        )

    @functools.cached_property
    def _text_evaluator(self) -> TextEvaluator:
        return TextEvaluator(self.config, self._needed_tokenizer())

    @functools.cached_property
    def _narrow_model(self) -> LanguageModel:
        return narrowed(self.model, self.model.dtype)

    @functools.cached_property
    def _writer(self) -> Writer:
        return Writer(self.config.data.seq_len, self._needed_tokenizer().vocab_size)

    def _tokens(self, prompt: Prompt) -> list[int]:
        is_text = isinstance(prompt, str)
        given = self._needed_tokenizer().encode(prompt).tolist() if is_text else prompt
        self._check(np.asarray(given, object))  # of any size
        return given

    def _needed_tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise UserError(
                "text needs a tokenizer, and this checkpoint came without one: put its "
                "tokenizer.json or tokenizer.model beside it, or load it with tokenizer='bytes' or "
                "a path"
            )
        return self.tokenizer

    def _check(self, tokens: np.ndarray) -> None:
        vocab_size = self.config.model.vocab_size
        wrong = tokens[(tokens < 0) | (tokens >= vocab_size)]
        if wrong.size:
            raise UserError(f"token id {wrong[0]} is not allowed: 0 to {vocab_size - 1}")


def load(
    workdir: str | os.PathLike[str], step: int | None = None, tokenizer: str = ""
) -> TrainedModel:
    """Load the newest checkpoint of a run (or that of ``step``) onto one device.

    ``workdir`` may also be a checkpoint in the official implementation's format: it has one step,
    and ``tokenizer`` names its tokenizer where none lies beside it (logits need none).
    Raises UserError if ``workdir`` holds neither, the run has no such checkpoint, or it does not
    fit the config.
    """
    path = as_path(workdir)
    if is_official(path):
        return _load_official(path, step, tokenizer)
    if tokenizer:
        raise UserError(f"tokenizer={tokenizer!r} is not allowed: a run has its own")
    run = RunDirectory.of_existing(path)
    config, parameters, step = load_run(run, step)
    own = build_tokenizer(run.read_json("tokenizer.json"))
    return TrainedModel(_model(config, parameters), own, config, step)


def _load_official(folder: Path, step: int | None, setting: str) -> TrainedModel:
    if step:
        raise UserError(f"step={step} has no checkpoint in {folder}: it holds one, of step 0")
    config, parameters = read_model(folder, meshes.single_device_mesh())
    tokenizer = find_tokenizer(folder, setting)
    if tokenizer is not None:
        config = with_vocabulary(config, tokenizer.vocab_size)
    return TrainedModel(_model(config, parameters), tokenizer, config, 0)


def _model(config: Config, parameters: Mapping[str, jax.Array]) -> LanguageModel:
    return with_parameters(abstract_model(config.model, LAYOUTS["data"]), parameters)
