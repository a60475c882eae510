"""What a model writes after many prompts, up to what ends an answer."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

from jax.sharding import Mesh

from cartesian_moe_jax.data.tokenizers import Tokenizer
from cartesian_moe_jax.evaluation.downstream.buckets import bucket, rows_of
from cartesian_moe_jax.evaluation.downstream.scorer import Advance
from cartesian_moe_jax.evaluation.generation import Writer
from cartesian_moe_jax.models.language_model import LanguageModel
from cartesian_moe_jax.parallel.mesh import batch_parts


class Manner(NamedTuple):
    """How an answer is written, and where it ends."""

    until: tuple[str, ...]
    """Texts that end it, without being part of it."""
    max_new_tokens: int
    temperature: float
    """0 takes the most likely token."""


class Question(NamedTuple):
    """A text to be continued."""

    prompt: Sequence[int]
    """At least one token."""
    manner: Manner


class AnswerWriter:
    """Writes answers by a model on ``mesh``. Use it inside ``jax.set_mesh(mesh)``.

    Compiles once for each length of a few (buckets.py) that occurs. ``tokens`` is how many the
    model reads at once, ``window`` how many it sees. Where a prompt and the longest answer to it
    don't fit, the end of the prompt is kept, at least three quarters of a window.
    """

    def __init__(self, tokenizer: Tokenizer, mesh: Mesh, *, tokens: int, window: int):
        self._tokenizer, self._mesh, self._tokens, self.window = tokenizer, mesh, tokens, window
        self._writer = functools.cache(self._make_writer)

    def room(self, manner: Manner) -> int:
        """Return how many tokens of a prompt are read."""
        return max(self.window - manner.max_new_tokens, self.window * 3 // 4, 1)

    def answers(
        self,
        model: LanguageModel,
        questions: Sequence[Question],
        advance: Advance = lambda count: None,
    ) -> list[str]:
        """Return the answer to each. ``advance`` is told of so many more that are written."""
        found, done = [""] * len(questions), 0
        for manner in dict.fromkeys(question.manner for question in questions):
            asked = [i for i, question in enumerate(questions) if question.manner == manner]
            asked.sort(key=lambda i: -len(questions[i].prompt))
            while asked:
                longest = min(len(questions[asked[0]].prompt), self.room(manner))
                length = bucket(min(longest + manner.max_new_tokens, self.window), self.window)
                rows = rows_of(self._tokens, length, len(asked), batch_parts(self._mesh))
                now, asked = asked[:rows], asked[rows:]
                prompts = [questions[i].prompt[-self.room(manner) :] for i in now]
                for i, text in zip(
                    now, self._written(model, prompts, manner, length, rows, done), strict=True
                ):
                    found[i] = text
                done += len(now)
                advance(len(now))
        return found

    def _written(
        self,
        model: LanguageModel,
        prompts: list[Sequence[int]],
        manner: Manner,
        length: int,
        rows: int,
        seed: int,
    ) -> list[str]:
        def is_enough(tokens: Sequence[int]) -> bool:
            text = self._tokenizer.decode(tokens)
            return any(end in text for end in manner.until)

        written = self._writer(length, rows).write(
            model,
            prompts,
            manner.max_new_tokens,
            temperature=manner.temperature,
            seed=seed,  # or what is asked twice may be answered twice the same
            end_of_text=self._tokenizer.end_of_text,
            stop=is_enough,
        )
        return [before(self._tokenizer.decode(tokens), manner.until) for tokens in written]

    def _make_writer(self, length: int, rows: int) -> Writer:
        return Writer(length, self._tokenizer.vocab_size, rows)


def before(text: str, ends: Sequence[str]) -> str:
    """Return the text before the first of the ends in it."""
    return text[: min((text.find(end) for end in ends if end in text), default=len(text))]
