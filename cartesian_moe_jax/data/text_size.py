"""How much text the first tokens of a stream stand for."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Integer

from cartesian_moe_jax.data.tokenizers import Tokenizer

BROKEN = "\ufffd"
"""What a character decodes to whose last tokens are missing."""


class TextSize(NamedTuple):
    """What tokens stand for; words are separated by white space."""

    tokens: int = 0
    bytes: int = 0
    words: int = 0

    def plus(self, other: "TextSize") -> "TextSize":
        """Return the sums."""
        return TextSize(*map(sum, zip(self, other, strict=True)))

    def minus(self, other: "TextSize") -> "TextSize":
        """Return the differences."""
        return TextSize(*(a - b for a, b in zip(self, other, strict=True)))


def decoded_size(tokens: Integer[np.ndarray, "tokens"], tokenizer: Tokenizer) -> TextSize:
    """Return the size of the text that tokens decode to, document by document.

    A character at the end counts when it is complete, a word when it has begun.
    """
    is_end = tokens == tokenizer.end_of_text
    documents = np.split(tokens, np.flatnonzero(is_end) + 1)
    texts = [tokenizer.decode(d[d != tokenizer.end_of_text]) for d in documents]
    texts[-1] = texts[-1].rstrip(BROKEN)
    return TextSize(
        tokens=len(tokens),
        bytes=sum(len(text.encode("utf-8", errors="replace")) for text in texts),
        words=sum(len(text.split()) for text in texts),
    )


def share_of(between: TextSize, read: TextSize, decoded: TextSize) -> TextSize:
    """Return what tokens stand for that decode to ``read``, some of those ``between`` two marks.

    All of these decode to ``decoded``. A tokenizer that keeps every character has decoded what
    was counted, and the answer is ``read``; of one that drops some (runs of white space, say),
    each is taken to stand for the same share of them.
    """
    return TextSize(
        tokens=read.tokens,
        bytes=round(between.bytes * read.bytes / max(decoded.bytes, 1)),
        words=round(between.words * read.words / max(decoded.words, 1)),
    )
