"""Text from a model: one compile of a fixed-shape forward, one token at a time."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from cartesian_moe_jax.models.language_model import LanguageModel


def make_sampler(window: int, vocab_size: int, rows: int = 1) -> Callable[..., Int[Array, ""]]:
    """Return f(model, tokens [1, window], length, temperature, key) -> the next token.

    Only the first ``vocab_size`` tokens can be drawn (the rest of a padded vocabulary means
    nothing). Tokens behind ``length`` are not seen: attention is causal. The batch is ``rows``
    copies, so that it divides over the devices of a mesh.
    """

    @jax.jit
    def sample(
        model: LanguageModel,
        tokens: Int[Array, "1 window"],
        length: Int[Array, ""],
        temperature: Float[Array, ""],
        key: PRNGKeyArray,
    ) -> Int[Array, ""]:
        hidden, _ = model.hidden(jnp.broadcast_to(tokens, (rows, window)))
        last = jax.lax.dynamic_index_in_dim(hidden[0], length - 1, keepdims=False)
        head = model.head_in_use().astype(last.dtype)
        logits = jnp.dot(last, head, preferred_element_type=jnp.float32)[:vocab_size]
        drawn = jax.random.categorical(key, logits / jnp.maximum(temperature, 1e-6))
        return jnp.where(temperature > 0, drawn, jnp.argmax(logits))

    return sample


def generate_tokens(
    sampler: Callable[..., Int[Array, ""]],
    model: LanguageModel,
    prompt: Sequence[int],
    max_new_tokens: int,
    *,
    window: int,
    temperature: float,
    seed: int,
    end_of_text: int | None = None,
) -> list[int]:
    """Return up to ``max_new_tokens`` that continue ``prompt`` (not empty), ending at end_of_text.

    The model sees the last ``window`` tokens. ``temperature=0`` takes the most likely token.
    """
    tokens = list(prompt)
    key = jax.random.key(seed)
    for i in range(max_new_tokens):
        seen = tokens[-window:]
        padded = np.zeros((1, window), np.int32)
        padded[0, : len(seen)] = seen
        drawn = sampler(
            model,
            jnp.asarray(padded),
            jnp.asarray(len(seen)),
            jnp.asarray(temperature, jnp.float32),
            jax.random.fold_in(key, i),
        )
        if int(drawn) == end_of_text:
            break
        tokens.append(int(drawn))
    return tokens[len(prompt) :]
