"""The byte tokenizer, which needs no file."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Integer, UInt

from cartesian_moe_jax.data.tokenizers.identity import tokenizer_identity
from cartesian_moe_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class ByteTokenizer:
    """UTF-8 bytes as tokens 0..255, and end-of-text as 256.

    A model may pad its vocabulary beyond `vocab_size`; ids without a byte decode to nothing.
    """

    kind: ClassVar[str] = "bytes"
    vocab_size: ClassVar[int] = 257
    end_of_text: ClassVar[int] = 256

    @classmethod
    def from_description(cls, description: Mapping[str, Any], where: str) -> "ByteTokenizer":
        """Make the tokenizer; raises UserError where another end-of-text token is asked for."""
        named = description.get("end_of_text")
        if named:
            raise UserError(
                f"config.data.end_of_text={named!r} does not go with {where}: "
                "the tokenizer 'bytes' has its own, leave it empty"
            )
        return cls()

    def encode(self, text: str) -> UInt[np.ndarray, "tokens"]:
        """Return the UTF-8 bytes of a text as uint16; a lone surrogate becomes '?'."""
        data = text.encode("utf-8", errors="replace")
        return np.frombuffer(data, np.uint8).astype(np.uint16)

    def encode_batch(self, texts: Sequence[str]) -> list[UInt[np.ndarray, "_"]]:
        """Return what `encode` returns for each of the texts."""
        # One array for all, cut into views: an array of its own costs a short text the most.
        encoded = [text.encode("utf-8", errors="replace") for text in texts]
        tokens = np.frombuffer(b"".join(encoded), np.uint8).astype(np.uint16)
        arrays, start = [], 0
        for data in encoded:
            arrays.append(tokens[start : start + len(data)])
            start += len(data)
        return arrays

    def decode(self, tokens: Integer[np.ndarray, "tokens"] | Sequence[int]) -> str:
        """Return the text; broken UTF-8 becomes U+FFFD, ids above 255 are dropped."""
        ids = np.asarray(tokens, np.int64)
        return ids[ids < self.end_of_text].astype(np.uint8).tobytes().decode("utf-8", "replace")

    def description(self) -> dict[str, Any]:
        """Return `{"kind": "bytes"}`."""
        return {"kind": self.kind}

    def identity(self) -> dict[str, Any]:
        """Return its identity; there is no file, so its hash is that of its kind."""
        content = self.kind.encode()
        return tokenizer_identity(
            self.kind, self.vocab_size, self.end_of_text, content, name=self.kind
        )
