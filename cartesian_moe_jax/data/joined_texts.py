"""Texts in memory as one long sequence of tokens, as packing would join them."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt

from cartesian_moe_jax.data.documents import Document
from cartesian_moe_jax.data.splits import has_text
from cartesian_moe_jax.data.text_size import TextSize, decoded_size
from cartesian_moe_jax.data.tokenizers import Tokenizer
from cartesian_moe_jax.data.tokenizing import tokenize
from cartesian_moe_jax.errors import UserError


class JoinedTexts:
    """The tokens of texts, each followed by one end-of-text token; blank texts are left out.

    Attributes:
        name: what messages call them.
    """

    def __init__(self, texts: Sequence[str], tokenizer: Tokenizer):
        """Tokenise the texts; raises UserError if there is none."""
        self.name, self._tokenizer = "texts", tokenizer
        documents = [document for t in texts if has_text(document := Document(t, ""))]
        if not documents:
            raise UserError("texts=[] is not allowed: at least one that is not blank")
        made = tokenize(documents, tokenizer, np.dtype(np.uint32))
        self._tokens, self._size = made.tokens, made.counts.size

    def __len__(self) -> int:
        """Number of tokens, end-of-text included."""
        return len(self._tokens)

    def read(self, start: int, stop: int) -> UInt[np.ndarray, "tokens"]:
        """Return tokens [start, stop), cut at the end as a slice is."""
        return self._tokens[start:stop]

    def size_until(self, stop: int) -> TextSize:
        """Return how much text tokens [0, stop) stand for."""
        if stop >= len(self):
            return self._size
        return decoded_size(self.read(0, stop), self._tokenizer)
