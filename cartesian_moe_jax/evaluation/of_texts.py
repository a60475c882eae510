"""Perplexity of texts in memory, for a model on one device."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from cartesian_moe_jax.compiler_options import step_options
from cartesian_moe_jax.config import Config
from cartesian_moe_jax.data.joined_texts import JoinedTexts
from cartesian_moe_jax.data.loader import evaluation_batches
from cartesian_moe_jax.data.tokenizers import Tokenizer
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.evaluation.perplexity import (
    Perplexity,
    make_evaluation_step,
    measure_perplexity,
)
from cartesian_moe_jax.models.build import abstract_model
from cartesian_moe_jax.models.language_model import LanguageModel
from cartesian_moe_jax.models.parameters import named_parameters
from cartesian_moe_jax.parallel.layouts import LAYOUTS
from cartesian_moe_jax.parallel.mesh import single_device_mesh

ROWS = 8
"""Windows that are predicted at once; fewer where there are fewer."""


class TextEvaluator:
    """Measures texts as an evaluation measures a corpus of them. Compiles once per batch size."""

    def __init__(self, config: Config, tokenizer: Tokenizer):
        self._tokenizer, self._seq_len = tokenizer, config.data.seq_len
        step = make_evaluation_step(abstract_model(config.model, LAYOUTS["data"]), config.model)
        self._step = jax.jit(step, compiler_options=step_options(single_device_mesh()))

    def perplexity(
        self, model: LanguageModel, texts: str | Sequence[Any], stride: int = 0
    ) -> Perplexity:
        """Return how well the joined texts are predicted, in windows as ``evaluation_batches``."""
        given = [texts] if isinstance(texts, str) else list(texts)
        if wrong := [text for text in given if not isinstance(text, str)]:
            raise UserError(
                f"texts has {type(wrong[0]).__name__}: a text or a list of texts wanted"
            )
        joined = JoinedTexts(given, self._tokenizer)
        rows = min(ROWS, -(-len(joined) // self._seq_len))
        batches = evaluation_batches(joined, self._seq_len, rows, stride=stride)
        return measure_perplexity(self._step, named_parameters(model), batches, jnp.asarray, joined)
