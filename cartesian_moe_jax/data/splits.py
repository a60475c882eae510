"""Splits: which document, or which part of one, is for training and which for validation."""

import dataclasses
import hashlib
from collections.abc import Iterator

from cartesian_moe_jax.data.corpora import Corpus, Document
from cartesian_moe_jax.errors import UserError

SPLITS = ("train", "validation")


def split_of(name: str, validation_share: float) -> str:
    """Return the split of a document, by the sha256 of its name: the same on every machine."""
    digest = hashlib.sha256(name.encode("utf-8", errors="surrogateescape")).digest()
    is_validation = int.from_bytes(digest[:8], "big") < validation_share * 2**64
    return "validation" if is_validation else "train"


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


def split_documents(corpus: Corpus, validation_share: float) -> Iterator[tuple[str, Document]]:
    """Yield every non-blank document, or part of one, with the name of its split.

    Documents are assigned whole, by `split_of`. Where that would leave a split without any
    (a corpus of a single document), each document is cut by `cut_at_line_end` instead.

    Raises:
        UserError: the share is not between 0 and 1, or the corpus has no text.
    """
    if not 0 < validation_share < 1:
        raise UserError(
            f"data.validation_share={validation_share} must lie strictly between 0 and 1"
        )
    if _fills_every_split(corpus, validation_share):
        for document in _with_text(corpus):
            yield split_of(document.name, validation_share), document
        return
    for document in _with_text(corpus):
        parts = cut_at_line_end(document.text, validation_share)
        for split, text in zip(SPLITS, parts, strict=True):
            if text:
                yield split, dataclasses.replace(document, text=text)


def _with_text(corpus: Corpus) -> Iterator[Document]:
    return (d for d in corpus.documents() if d.text and not d.text.isspace())


def _fills_every_split(corpus: Corpus, validation_share: float) -> bool:
    """Tell whether whole documents reach every split; reads only as far as it must."""
    seen = set()
    for document in _with_text(corpus):
        seen.add(split_of(document.name, validation_share))
        if len(seen) == len(SPLITS):
            return True
    if not seen:
        raise UserError(f"corpus {corpus.spec!r} has no text: every document is empty")
    return False
