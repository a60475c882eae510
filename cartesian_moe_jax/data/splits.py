"""Splits: which document, or which part of one, is for training and which for validation."""

from collections.abc import Iterator
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


class SplitRule(NamedTuple):
    """Where documents go whose dataset does not say it."""

    validation_share: float
    """Expected share of the documents that go to validation."""
    cut: bool = False
    """Each document is cut in two instead: there are too few of them."""

    def parts(self, split: str, document: Document) -> Iterator[tuple[str, Document]]:
        """Yield a document, or its parts that are not empty, with the split of each."""
        if split:
            yield split, document
        elif not self.cut:
            yield split_of(document.split_key, self.validation_share), document
        else:
            texts = cut_at_line_end(document.text, self.validation_share)
            for name, text in zip(SPLITS, texts, strict=True):
                if text:
                    yield name, document._replace(text=text, ends=True)


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
    rule, seen = SplitRule(validation_share), set()
    for split, document in documents.read(0, len(documents)):
        if has_text(document):
            seen.add(split or split_of(document.split_key, validation_share))
        if split or len(seen) == len(SPLITS):
            return rule
    if not seen:
        raise UserError("the corpus has no text: every document is empty")
    return SplitRule(validation_share, cut=True)


def has_text(document: Document) -> bool:
    """Tell whether there is more than white space."""
    return bool(document.text) and not document.text.isspace()
