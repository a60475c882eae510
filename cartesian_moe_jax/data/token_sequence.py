"""What evaluation reads: a long sequence of tokens that knows how much text they stand for."""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Integer

from cartesian_moe_jax.data.text_size import TextSize


@runtime_checkable
class TokenSequence(Protocol):
    """Tokens by position; `name` is what messages call them."""

    name: str

    def __len__(self) -> int:
        """Return the number of tokens."""

    def read(self, start: int, stop: int) -> Integer[np.ndarray, "tokens"]:
        """Return tokens [start, stop), cut at the end as a slice is."""

    def size_until(self, stop: int) -> TextSize:
        """Return how much text tokens [0, stop) stand for."""
