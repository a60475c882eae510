"""Tokenizers: text to token ids and back, each with a description that travels with its tokens."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Integer, UInt

from cartesian_moe_jax.errors import lookup


@runtime_checkable
class Tokenizer(Protocol):
    """What packing, evaluation and generation need of a tokenizer."""

    vocab_size: int
    end_of_text: int

    def encode(self, text: str) -> UInt[np.ndarray, "tokens"]:
        """Return the token ids of a text, without an end-of-text token."""

    def decode(self, tokens: Integer[np.ndarray, "tokens"] | Sequence[int]) -> str:
        """Return the text of token ids; special tokens have none."""

    def description(self) -> dict[str, Any]:
        """Return JSON data from which `build_tokenizer` makes an equal tokenizer."""


@dataclasses.dataclass(frozen=True)
class ByteTokenizer:
    """UTF-8 bytes as tokens 0..255, and end-of-text as 256.

    A model may pad its vocabulary beyond `vocab_size`; ids without a byte decode to nothing.
    """

    kind: ClassVar[str] = "bytes"
    vocab_size: ClassVar[int] = 257
    end_of_text: ClassVar[int] = 256

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> "ByteTokenizer":
        """Make the tokenizer; bytes need nothing but their kind."""
        return cls()

    def encode(self, text: str) -> UInt[np.ndarray, "tokens"]:
        """Return the UTF-8 bytes of a text as uint16; a lone surrogate becomes '?'."""
        data = text.encode("utf-8", errors="replace")
        return np.frombuffer(data, np.uint8).astype(np.uint16)

    def decode(self, tokens: Integer[np.ndarray, "tokens"] | Sequence[int]) -> str:
        """Return the text; broken UTF-8 becomes U+FFFD, ids above 255 are dropped."""
        ids = np.asarray(tokens, np.int64)
        return ids[ids < self.end_of_text].astype(np.uint8).tobytes().decode("utf-8", "replace")

    def description(self) -> dict[str, Any]:
        """Return `{"kind": "bytes"}`."""
        return {"kind": self.kind}


TOKENIZERS = {ByteTokenizer.kind: ByteTokenizer}


def build_tokenizer(description: str | Mapping[str, Any]) -> Tokenizer:
    """Make a tokenizer from its description, or from the bare name of its kind.

    Args:
        description: `{"kind": NAME, ...}` as written by `Tokenizer.description`, or `NAME`.

    Raises:
        UserError: the kind is not one of `TOKENIZERS`.
    """
    if isinstance(description, str):
        description = {"kind": description}
    kind = str(description.get("kind"))
    return lookup(TOKENIZERS, kind, "data.tokenizer").from_description(description)
