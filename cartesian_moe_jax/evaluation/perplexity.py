"""Perplexity of a model on held-out tokens."""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from cartesian_moe_jax.config import ModelConfig
from cartesian_moe_jax.models.cross_entropy import token_losses
from cartesian_moe_jax.models.language_model import LanguageModel
from cartesian_moe_jax.models.parameters import with_parameters

Parameters = dict[str, Float[Array, "..."]]
Batches = Iterable[tuple[Int[np.ndarray, "batch seq_plus_1"], Bool[np.ndarray, "batch seq"]]]


class Perplexity(NamedTuple):
    """How well text was predicted."""

    nats: float
    """Total negative log-likelihood of the predicted tokens."""
    tokens: int
    text_bytes: float
    """Bytes of text that the tokens stand for."""

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(nats per token)."""
        return math.exp(min(self.loss, 700.0))

    @property
    def bits_per_byte(self) -> float:
        """Total negative log2-likelihood / bytes of text."""
        return self.nats / math.log(2) / self.text_bytes

    def as_dict(self) -> dict[str, float]:
        """Return the numbers for result.json."""
        return {
            "loss": self.loss,
            "perplexity": self.perplexity,
            "bits_per_byte": self.bits_per_byte,
            "tokens": self.tokens,
        }


def make_evaluation_step(
    skeleton: LanguageModel, config: ModelConfig
) -> Callable[..., Float[Array, ""]]:
    """Return f(parameters, tokens, mask) -> total nats of the masked-in targets. Dropless."""

    def step(
        parameters: Parameters,
        tokens: Int[Array, "batch seq_plus_1"],
        mask: Bool[Array, "batch seq"],
    ) -> Float[Array, ""]:
        model = with_parameters(skeleton, parameters)
        hidden, _ = model.hidden(tokens[:, :-1])
        losses = token_losses(hidden, model.head[...], tokens[:, 1:], config.loss_chunk)
        return jnp.sum(jnp.where(mask, losses, 0.0))

    return step


def measure_perplexity(
    step: Callable[..., Float[Array, ""]],
    parameters: Parameters,
    batches: Batches,
    place: Callable[[np.ndarray], jax.Array],
    bytes_per_token: float,
    max_tokens: int = 0,
) -> Perplexity:
    """Sum over batches, until ``max_tokens`` are predicted (0: all of them).

    ``place`` puts a process's rows on its devices.
    """
    total, count = 0.0, 0
    for tokens, mask in batches:
        total += float(step(parameters, place(tokens), place(mask)))
        count += _global_count(mask)
        if max_tokens and count >= max_tokens:
            break
    return Perplexity(total, count, count * bytes_per_token)


def _global_count(mask: Bool[np.ndarray, "batch seq"]) -> int:
    if jax.process_count() == 1:
        return int(mask.sum())
    from jax.experimental import multihost_utils

    return int(np.sum(multihost_utils.process_allgather(mask.sum())))
