"""What is scored: tokens, and what stands before them."""

from collections.abc import Sequence
from typing import NamedTuple


class Continuation(NamedTuple):
    """Tokens that may follow others."""

    context: Sequence[int]
    """What the model sees first; at least one token."""
    tokens: Sequence[int]
    """What is scored; of none the score is 0."""

    @property
    def length(self) -> int:
        """How many tokens the model reads: all but the last."""
        return len(self.context) + len(self.tokens) - 1


class Score(NamedTuple):
    """What a model says of a continuation."""

    log_likelihood: float
    """log p(tokens | context), nats."""
    is_greedy: bool
    """Whether each of its tokens is the most likely one after those before it."""


def fitted(whole: Continuation, window: int) -> list[Continuation]:
    """Return a continuation in parts that a model which sees ``window`` tokens can read.

    One part where it fits with some of its context, of which the end is kept. If it does not,
    the tokens are scored in several parts, each of them once, with at least half a window before
    those behind the first part.
    """
    text = [*whole.context, *whole.tokens]
    first, end = len(whole.context), len(text)
    parts = []
    while first < end:
        # The first part may begin the window; the others see half of one.
        most = window if not parts else max(1, window // 2)
        last = min(end, first + most)
        parts.append(Continuation(text[max(0, last - 1 - window) : first], text[first:last]))
        first = last
    return parts


def cut_short(whole: Continuation, window: int) -> bool:
    """Say whether the model sees less than all of the context."""
    return whole.length > window
