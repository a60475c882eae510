"""Windows: a packed split seen as a random-access source of fixed-length training examples."""

import numpy as np
from jaxtyping import Int32

from cartesian_moe_jax.data.packed import PackedTokens
from cartesian_moe_jax.errors import UserError


class WindowSource:
    """Window i is tokens[i * seq_len : i * seq_len + seq_len + 1].

    Neighbours share one token, so that inputs are window[:-1], targets window[1:], and every
    token but the first is predicted once. What does not fill the last window is left out.

    Attributes:
        tokens: the packed split.
        seq_len: inputs per window.
    """

    def __init__(self, tokens: PackedTokens, seq_len: int):
        """Check that there is at least one window; UserError names both lengths if not."""
        if seq_len < 1:
            raise UserError(f"seq_len={seq_len} must be at least 1")
        if len(tokens) < seq_len + 1:
            raise UserError(
                f"split {tokens.name!r} of corpus {tokens.corpus.metadata['corpus']!r} has "
                f"{len(tokens)} tokens, fewer than one window of seq_len + 1 = {seq_len + 1}"
            )
        self.tokens = tokens
        self.seq_len = seq_len

    def __len__(self) -> int:
        """Number of whole windows."""
        return (len(self.tokens) - 1) // self.seq_len

    def __repr__(self) -> str:
        """Name the windows by content, the same in every process."""
        return f"WindowSource(tokens={self.tokens!r}, seq_len={self.seq_len})"

    def __getitem__(self, index: int) -> Int32[np.ndarray, "{self.seq_len}+1"]:
        """Return one window; IndexError outside 0 .. len - 1."""
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        start = index * self.seq_len
        return self.tokens.read(start, start + self.seq_len + 1).astype(np.int32)
