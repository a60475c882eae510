"""Perplexity of a model on held-out tokens."""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from cartesian_moe_jax.config import ModelConfig
from cartesian_moe_jax.data.token_sequence import TokenSequence
from cartesian_moe_jax.models.cross_entropy import token_losses
from cartesian_moe_jax.models.language_model import LanguageModel
from cartesian_moe_jax.models.parameters import with_parameters
from cartesian_moe_jax.moe.intervention import Intervention

Parameters = dict[str, Float[Array, "..."]]
Batches = Iterable[tuple[Int[np.ndarray, "batch seq_plus_1"], Bool[np.ndarray, "batch seq"]]]


class Perplexity(NamedTuple):
    """How well text was predicted.

    With N = total negative log-likelihood (nats) of the predicted tokens, which are all that are
    read but the first, end-of-text tokens included: perplexity per token exp(N / tokens), per byte
    of UTF-8 text exp(N / bytes), per word exp(N / words), a word being what white space separates.
    Bytes and words are those of the text that is read, to the last predicted token. Byte and word
    perplexity, and bits per byte, compare across tokenizers; token perplexity does not.
    """

    nats: float
    """Total negative log-likelihood of the predicted tokens."""
    tokens: int
    text_bytes: float
    """Bytes of the text that was read."""
    words: float
    """Words of the text that was read."""

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(nats per token)."""
        return _exp(self.loss)

    @property
    def byte_perplexity(self) -> float:
        """exp(nats per byte)."""
        return _exp(self.nats / self.text_bytes)

    @property
    def word_perplexity(self) -> float:
        """exp(nats per word)."""
        return _exp(self.nats / max(self.words, 1))

    @property
    def bits_per_byte(self) -> float:
        """Total negative log2-likelihood / bytes of text."""
        return self.nats / math.log(2) / self.text_bytes

    def as_dict(self) -> dict[str, float]:
        """Return the numbers for result.json."""
        return {
            "loss": self.loss,
            "perplexity": self.perplexity,
            "byte_perplexity": self.byte_perplexity,
            "word_perplexity": self.word_perplexity,
            "bits_per_byte": self.bits_per_byte,
            "tokens": self.tokens,
        }


class Evaluation(NamedTuple):
    """How well the parts of a corpus were predicted."""

    by_source: dict[str, Perplexity]
    weights: tuple[float, ...]
    """Each part's share of the mean."""

    @property
    def mean(self) -> Perplexity:
        """What text mixed by the weights would give; of one part, its own."""
        parts = list(zip(self.weights, self.by_source.values(), strict=True))
        tokens = sum(part.tokens for _, part in parts)

        def mixed(per_token: Callable[[Perplexity], float]) -> float:
            return tokens * sum(weight * per_token(part) for weight, part in parts)

        return Perplexity(
            nats=mixed(lambda part: part.loss),
            tokens=tokens,
            text_bytes=mixed(lambda part: part.text_bytes / part.tokens),
            words=mixed(lambda part: part.words / part.tokens),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the mean, and the sources beside it where there are several."""
        if len(self.by_source) == 1:
            return self.mean.as_dict()
        parts = {name: part.as_dict() for name, part in self.by_source.items()}
        return {**self.mean.as_dict(), "by_source": parts}


def make_evaluation_step(
    skeleton: LanguageModel, config: ModelConfig
) -> Callable[..., Float[Array, ""]]:
    """Return f(parameters, tokens, mask, intervention=None) -> total nats of the masked-in targets.

    Dropless. ``intervention`` is stacked [moe_layers, sublayers], see moe/intervention.py.
    """

    def step(
        parameters: Parameters,
        tokens: Int[Array, "batch seq_plus_1"],
        mask: Bool[Array, "batch seq"],
        intervention: Intervention | None = None,
    ) -> Float[Array, ""]:
        model = with_parameters(skeleton, parameters)
        hidden, _ = model.hidden(tokens[:, :-1], intervention)
        losses = token_losses(hidden, model.head_in_use(), tokens[:, 1:], config.loss_chunk)
        return jnp.sum(jnp.where(mask, losses, 0.0))

    return step


def measure_perplexity(
    step: Callable[..., Float[Array, ""]],
    parameters: Parameters,
    batches: Batches,
    place: Callable[[np.ndarray], jax.Array],
    text: TokenSequence,
) -> Perplexity:
    """Sum over the batches of evaluating a text, from its start.

    ``place`` puts a process's rows on its devices.
    """
    total, count = 0.0, 0
    for tokens, mask in batches:
        everywhere = place(mask)
        total += float(step(parameters, place(tokens), everywhere))
        count += int(mask.sum()) if jax.process_count() == 1 else int(jnp.sum(everywhere))
    size = text.size_until(count + 1)
    return Perplexity(total, count, size.bytes, size.words)


def _exp(nats: float) -> float:
    return math.exp(min(nats, 700.0))
