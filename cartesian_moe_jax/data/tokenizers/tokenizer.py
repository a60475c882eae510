"""The tokenizer: text to token ids and back, with a description that travels with its tokens."""

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Integer, UInt


@runtime_checkable
class Tokenizer(Protocol):
    """What packing, evaluation and generation need of a tokenizer.

    Attributes:
        kind: its name in `TOKENIZERS`.
        vocab_size: the highest token id and one.
        end_of_text: the id that ends a document; no text contains it.
    """

    kind: ClassVar[str]
    vocab_size: int
    end_of_text: int

    def encode(self, text: str) -> UInt[np.ndarray, "tokens"]:
        """Return the token ids of a text, without an end-of-text token."""

    def encode_batch(self, texts: Sequence[str]) -> list[UInt[np.ndarray, "_"]]:
        """Return what `encode` returns for each of the texts."""

    def decode(self, tokens: Integer[np.ndarray, "tokens"] | Sequence[int]) -> str:
        """Return the text of token ids; special tokens have none."""

    def description(self) -> dict[str, Any]:
        """Return JSON data from which `build_tokenizer` makes an equal tokenizer."""

    def identity(self) -> dict[str, Any]:
        """Return small JSON data that says which tokenizer it is, see `tokenizer_identity`."""
