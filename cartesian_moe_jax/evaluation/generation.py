"""Text from a model: a program that reads texts, and one that adds a token to each of them."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int, PRNGKeyArray

from cartesian_moe_jax.models.kv_cache import KVCache
from cartesian_moe_jax.models.language_model import LanguageModel
from cartesian_moe_jax.parallel.mesh import current_mesh

Stop = Callable[[Sequence[int]], bool]
"""Whether tokens that were written are enough."""


class Drawing(NamedTuple):
    """How the next tokens are drawn."""

    key: PRNGKeyArray
    temperature: Float[Array, ""]
    """0 takes the most likely token."""
    step: Int[Array, ""]


@dataclasses.dataclass
class _Text:
    tokens: list[int]
    prompt: int
    """How many of them were given."""
    first: int
    """The first token that the model sees."""
    ended: bool = False

    @property
    def written(self) -> list[int]:
        return self.tokens[self.prompt :]

    def seen(self, window: int) -> list[int]:
        if len(self.tokens) - self.first > window:
            self.first = len(self.tokens) - max(1, window // 2)
        return self.tokens[self.first :]

    def add(self, token: int, end_of_text: int | None, stop: Stop | None) -> None:
        self.ended = self.ended or token == end_of_text
        if not self.ended:
            self.tokens.append(token)
            self.ended = stop is not None and stop(self.written)


class Writer:
    """Writes texts for models that see ``window`` tokens. Compiles once per number of texts.

    Only the first ``vocab_size`` tokens can be drawn: the rest of a padded vocabulary means
    nothing. A batch is filled up to a multiple of ``parts``, to divide over a mesh.
    """

    def __init__(self, window: int, vocab_size: int, parts: int = 1):
        self.window, self.parts, self._vocab_size = window, parts, vocab_size
        self._begin = jax.jit(self._first)
        self._go_on = jax.jit(self._next, donate_argnums=2)

    def write(
        self,
        model: LanguageModel,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        *,
        temperature: float,
        seed: int,
        end_of_text: int | None = None,
        stop: Stop | None = None,
    ) -> list[list[int]]:
        """Return up to ``max_new_tokens`` that continue each prompt (none empty), to end_of_text.

        ``stop`` is asked after each token whether those written so far are enough.

        A token is drawn from what the model says of the text, of at most the last ``window``
        tokens. Once these are full the model starts again from the last half of them, since the
        oldest cannot be dropped alone: what is kept of later ones depends on them.
        """
        texts = [
            _Text(list(prompt), len(prompt), max(0, len(prompt) - self.window))
            for prompt in prompts
        ]
        key, cache, drawn, room = jax.random.key(seed), None, None, 0
        for step in range(max_new_tokens):
            drawing = Drawing(key, np.float32(temperature), np.int32(step))
            if room:
                drawn, cache = self._go_on(model, drawn, cache, drawing)
                room -= 1
            else:
                seen = [text.seen(self.window) for text in texts]
                drawn, cache = self._begin(model, *self._padded(seen), drawing)
                room = self.window - max(map(len, seen))
            # The others fill up the batch.
            for text, token in zip(texts, np.asarray(drawn).tolist(), strict=False):
                text.add(token, end_of_text, stop)
            if all(text.ended for text in texts):
                break
        return [text.written for text in texts]

    def _padded(
        self, seen: list[list[int]]
    ) -> tuple[Int[np.ndarray, "texts window"], Int[np.ndarray, "texts"]]:
        seen = seen + seen[:1] * (-len(seen) % self.parts)
        tokens = np.zeros((len(seen), self.window), np.int32)
        for row, text in zip(tokens, seen, strict=True):
            row[: len(text)] = text
        return tokens, np.array([len(text) for text in seen], np.int32)

    def _first(
        self,
        model: LanguageModel,
        tokens: Int[Array, "texts window"],
        length: Int[Array, "texts"],
        drawing: Drawing,
    ) -> tuple[Int[Array, "texts"], KVCache]:
        hidden, cache = model.prefill(tokens, length)
        last = jnp.take_along_axis(hidden, (length - 1)[:, None, None], axis=1)
        return self._draw(model, last[:, 0], drawing), cache

    def _next(
        self, model: LanguageModel, drawn: Int[Array, "texts"], cache: KVCache, drawing: Drawing
    ) -> tuple[Int[Array, "texts"], KVCache]:
        hidden, cache = model.extend(drawn[:, None], cache)
        return self._draw(model, hidden[:, 0], drawing), cache

    def _draw(
        self, model: LanguageModel, last: Float[Array, "texts d_model"], drawing: Drawing
    ) -> Int[Array, "texts"]:
        head = model.head_in_use().astype(last.dtype)
        logits = jnp.matmul(last, head, preferred_element_type=jnp.float32)[:, : self._vocab_size]
        text = jnp.arange(last.shape[0])
        # Keys of its own for each text: it does not depend on how many there are.
        keys = jax.vmap(jax.random.fold_in, (None, 0))(drawing.key, text)
        keys = jax.vmap(jax.random.fold_in, (0, None))(keys, drawing.step)
        weighed = logits / jnp.maximum(drawing.temperature, 1e-6)
        random = jax.vmap(jax.random.categorical)(keys, weighed)
        tokens = jnp.where(drawing.temperature > 0, random, jnp.argmax(logits, axis=-1))
        if current_mesh().size > 1:  # every process reads all of them
            tokens = jax.lax.with_sharding_constraint(tokens, PartitionSpec())
        return tokens
