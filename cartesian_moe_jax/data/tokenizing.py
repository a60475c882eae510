"""Tokenising a range of documents into one token array per stream."""

import collections
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt

from cartesian_moe_jax.data.documents import Document, Documents
from cartesian_moe_jax.data.marks import Marks
from cartesian_moe_jax.data.splits import SplitRule, has_text
from cartesian_moe_jax.data.text_size import TextSize
from cartesian_moe_jax.data.tokenizers import Tokenizer, build_tokenizer


def stream_name(split: str, group: str = "") -> str:
    """Return the name of the tokens of a split, or of one group's part of it."""
    return f"{split}/{group}" if group else split


class Counts(NamedTuple):
    """What a stream, or part of one, holds; words are separated by white space."""

    documents: int = 0
    bytes: int = 0
    words: int = 0
    tokens: int = 0

    def plus(self, other: "Counts") -> "Counts":
        """Return the sums."""
        return Counts(*map(sum, zip(self, other, strict=True)))

    @property
    def size(self) -> TextSize:
        """How much text its tokens stand for."""
        return TextSize(self.tokens, self.bytes, self.words)


class Tokenized(NamedTuple):
    """The tokens of one stream's documents."""

    counts: Counts
    marks: Marks
    tokens: UInt[np.ndarray, "tokens"]


def tokenize(documents: list[Document], tokenizer: Tokenizer, dtype: np.dtype) -> Tokenized:
    """Return the tokens of one stream's documents, end-of-text tokens included.

    Each text is encoded as it stands: a piece of a long text ends without an end-of-text token.
    """
    encoded = tokenizer.encode_batch([document.text for document in documents])
    end = np.array([tokenizer.end_of_text], dtype)
    ends = [end if document.ends else end[:0] for document in documents]
    pieces = itertools.chain.from_iterable(zip(encoded, ends, strict=True))
    tokens = np.concatenate(list(pieces), dtype=dtype)
    counts, marks = Counts(), Marks()
    for document, ids, ending in zip(documents, encoded, ends, strict=True):
        counts = counts.plus(_counted(document, len(ids) + len(ending)))
        marks.add(counts.size)
    return Tokenized(counts, marks, tokens)


def _counted(document: Document, tokens: int) -> Counts:
    text = document.text
    return Counts(
        documents=int(document.ends),
        bytes=len(text.encode("utf-8", errors="replace")),
        words=len(text.split()),
        tokens=tokens,
    )


class TokenizeRange:
    """The job of tokenising rows [start, stop); see `jobs`."""

    def __init__(self, settings: dict[str, Any]):
        """Open the documents and the tokenizer that the settings describe."""
        self._documents = Documents.from_json(settings["documents"])
        self._rule = SplitRule(*settings["rule"])
        self._tokenizer = build_tokenizer(settings["tokenizer"])
        self._dtype = np.dtype(settings["dtype"])

    def __call__(
        self, request: dict[str, Any], report: Callable[[dict[str, Any]], None]
    ) -> tuple[dict[str, Any], list[np.ndarray]]:
        """Return the names of the streams with their counts and marks, and their tokens."""
        streams = collections.defaultdict(list)
        rows = self._documents.read(request["start"], request["stop"])
        for row, (split, document) in enumerate(rows, request["start"]):
            if has_text(document):
                for name, part in self._rule.parts(split, document, row):
                    streams[stream_name(name, part.group)].append(part)
        done = {n: tokenize(parts, self._tokenizer, self._dtype) for n, parts in streams.items()}
        facts = {name: [made.counts, made.marks.to_text()] for name, made in done.items()}
        return {"streams": facts}, [made.tokens for made in done.values()]
