"""Splits: which document, or which part of one, is for training and which for validation."""

import bisect
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cartesian_moe_jax.data.documents import Document, Documents
from cartesian_moe_jax.errors import UserError

SPLITS = ("train", "validation")
EVERYTHING = "all"


def split_of(key: str, validation_share: float) -> str:
    """Return the split of a document by the hash of its text: equal texts share their split."""
    return "validation" if int(key, 16) < validation_share * 2**64 else "train"


def cut_at_line_end(text: str, validation_share: float) -> tuple[str, str]:
    """Cut a text in two, the last `validation_share` of its characters being validation.

    The cut moves to the nearest line end, unless that lies further away than the validation
    part is long: then lines are too long to be kept whole.
    """
    target = round(len(text) * (1 - validation_share))
    before = text.rfind("\n", 0, target) + 1
    after = text.find("\n", target) + 1
    line_ends = [end for end in (before, after) if 0 < end < len(text)]
    cut = min(line_ends, key=lambda end: abs(end - target), default=target)
    if abs(cut - target) > len(text) - target:
        cut = target
    return text[:cut], text[cut:]


class LongDocument(NamedTuple):
    """A document in several rows, and where it is cut in two."""

    first: int
    """Its first row."""
    at: int
    """The row that is cut; those before it are training, those behind it validation."""
    share: float
    """How much of that row is validation."""
    last: int

    @classmethod
    def of(cls, first: int, lengths: Sequence[int], validation_share: float) -> "LongDocument":
        """Cut rows of these lengths so that the end of them all is validation."""
        ends = list(itertools.accumulate(lengths))
        target = ends[-1] * (1 - validation_share)
        at = bisect.bisect_left(ends, target)
        return cls(first, first + at, (ends[at] - target) / lengths[at], first + len(lengths) - 1)


class SplitRule(NamedTuple):
    """Where documents go whose dataset does not say it."""

    validation_share: float
    """Expected share of the documents that go to validation."""
    cut: bool = False
    """Each document is cut in two instead: there are too few of them."""
    long: Sequence[Sequence[float]] = ()
    """Of those that are cut the ``LongDocument``s, by their first row."""

    def parts(self, split: str, document: Document, row: int = 0) -> Iterator[tuple[str, Document]]:
        """Yield a document, or its parts that are not empty, with the split of each.

        ``row`` is its place in the corpus, or that of this piece of it.
        """
        if split:
            yield split, document
        elif not self.cut:
            yield split_of(document.split_key, self.validation_share), document
        elif (long := self._long(row)) is not None and row != long.at:
            yield SPLITS[row > long.at], document
        else:
            share = self.validation_share if long is None else long.share
            texts = cut_at_line_end(document.text, share)
            for name, text, ends in zip(SPLITS, texts, (True, document.ends), strict=True):
                if text:
                    yield name, document._replace(text=text, ends=ends)

    def _long(self, row: int) -> LongDocument | None:
        before = bisect.bisect_right(self.long, row, key=lambda long: long[0])
        found = LongDocument(*self.long[before - 1]) if before else None
        return found if found is not None and row <= found.last else None


def choose_rule(documents: Documents, validation_share: float) -> SplitRule:
    """Return the rule for a corpus: documents are cut where a split would stay without any.

    Reads only as far as it must.

    Raises:
        UserError: the share is not between 0 and 1, or the corpus has no text.
    """
    if not 0 < validation_share < 1:
        raise UserError(
            f"data.validation_share={validation_share} must lie strictly between 0 and 1"
        )
    rule, seen, long, lengths = SplitRule(validation_share), set(), [], []
    for row, (split, document) in enumerate(documents.read(0, len(documents))):
        if has_text(document):
            seen.add(split or split_of(document.split_key, validation_share))
        if split or len(seen) == len(SPLITS):
            return rule
        lengths.append(len(document.text))
        if document.ends:
            if len(lengths) > 1:
                first = row + 1 - len(lengths)
                long.append(LongDocument.of(first, lengths, validation_share))
            lengths = []
    if not seen:
        raise UserError("the corpus has no text: every document is empty")
    return SplitRule(validation_share, cut=True, long=tuple(long))


def has_text(document: Document) -> bool:
    """Tell whether there is more than white space."""
    return bool(document.text) and not document.text.isspace()
