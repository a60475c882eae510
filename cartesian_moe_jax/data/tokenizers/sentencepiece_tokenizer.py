"""A SentencePiece model, such as LLaMA's tokenizer.model."""

import base64
import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Integer, UInt

from cartesian_moe_jax.data.tokenizers.content import check_hash, content_of, describe
from cartesian_moe_jax.data.tokenizers.end_of_text import (
    missing_end_of_text,
    no_end_of_text,
    unknown_end_of_text,
)
from cartesian_moe_jax.data.tokenizers.identity import tokenizer_identity
from cartesian_moe_jax.data.tokenizers.libraries import library
from cartesian_moe_jax.errors import UserError

KNOWN_MODELS = {"9e556afd44213b6bd1be2b850ebbbd98f5481437a8021afaf58ee7fb1818d347": "llama"}
"""The names of published models, by the sha256 of their file."""


@dataclasses.dataclass(frozen=True)
class SentencePieceTokenizer:
    """A SentencePiece model; neither begin- nor end-of-text is added to what it encodes.

    Attributes:
        content: the file.
        vocab_size: the number of pieces.
        end_of_text: the id of the control piece that ends texts.
    """

    content: bytes = dataclasses.field(repr=False)
    vocab_size: int
    end_of_text: int
    _processor: Any = dataclasses.field(repr=False, compare=False)
    kind: ClassVar[str] = "sentencepiece"

    @classmethod
    def from_description(
        cls, description: Mapping[str, Any], where: str
    ) -> "SentencePieceTokenizer":
        """Make the tokenizer.

        Args:
            description: `{"kind", "content"}`, the latter in base64, and maybe `end_of_text`
                and `sha256`.
            where: what messages call the tokenizer.

        Raises:
            UserError: the content is damaged, or has no such end-of-text token.
        """
        try:
            content = base64.b64decode(content_of(description, where), validate=True)
        except UserError:
            raise
        except ValueError:
            raise UserError(f"{where} is damaged: 'content' must be in base64") from None
        check_hash(description, content, where)
        processor = _open(content, where)
        end = _find_end(processor, description.get("end_of_text", ""), where)
        return cls(content, processor.vocab_size(), end, processor)

    @property
    def dtype(self) -> np.dtype:
        """The type of its token ids: uint16, or uint32 for vocabularies above 65,536."""
        return np.dtype(np.uint16 if self.vocab_size <= 2**16 else np.uint32)

    def encode(self, text: str) -> UInt[np.ndarray, "tokens"]:
        """Return the ids of the pieces of a text; a lone surrogate becomes '?'."""
        data = text.encode("utf-8", errors="replace")
        return self._processor.EncodeAsNumpy(data).astype(self.dtype)

    def encode_batch(self, texts: Sequence[str]) -> list[UInt[np.ndarray, "_"]]:
        """Return what `encode` returns for each of the texts."""
        # On one thread the library's own batches are no faster.
        return [self.encode(text) for text in texts]

    def decode(self, tokens: Integer[np.ndarray, "tokens"] | Sequence[int]) -> str:
        """Return the text; control pieces and ids without a piece are dropped."""
        ids = np.asarray(tokens, np.int64)
        return self._processor.decode(ids[(ids >= 0) & (ids < self.vocab_size)].tolist())

    def description(self) -> dict[str, Any]:
        """Return its kind, the file in base64, its hash, and the name of the end-of-text piece."""
        content = base64.b64encode(self.content).decode("ascii")
        name = self._processor.id_to_piece(self.end_of_text)
        return describe(self.kind, content, self.content, name)

    def identity(self) -> dict[str, Any]:
        """Return its identity, with the hash of the file, and a name where it is a known one."""
        sha256 = hashlib.sha256(self.content).hexdigest()
        known = {"name": KNOWN_MODELS[sha256]} if sha256 in KNOWN_MODELS else {}
        return tokenizer_identity(
            self.kind, self.vocab_size, self.end_of_text, self.content, **known
        )


def _open(content: bytes, where: str) -> Any:
    processor = library("sentencepiece", where).SentencePieceProcessor()
    try:
        # Given to the constructor, no bytes at all would make a processor without a model.
        processor.LoadFromSerializedProto(content)
    except Exception:
        raise UserError(
            f"{where} is no SentencePiece model: it is damaged, or of another format"
        ) from None
    return processor


def _find_end(processor: Any, named: str | int, where: str) -> int:
    """Return the id of a control piece: others may be found in texts."""
    if isinstance(named, int):
        if not (0 <= named < processor.vocab_size() and processor.IsControl(named)):
            raise no_end_of_text(named, where)
        return named
    if not named and processor.eos_id() >= 0:
        return processor.eos_id()
    if not named:
        raise missing_end_of_text(where)
    found = processor.piece_to_id(named)  # of no piece: that of "unknown", which is not control
    if processor.IsControl(found):
        return found
    ids = range(processor.vocab_size())
    control = [processor.id_to_piece(i) for i in ids if processor.IsControl(i)]
    raise unknown_end_of_text(named, control, where)
