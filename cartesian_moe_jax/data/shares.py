"""What a process reads whose devices hold several shares of the batch, in their order."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Int32

from cartesian_moe_jax.data.loader import TrainingBatches


class SharesOfBatches(Iterator[np.ndarray]):
    """An endless iterator over the rows of several shares of the same global batches.

    Attributes:
        position: global batches taken so far, counted from the start of training.
        epochs_per_batch: how much of each part one global batch is, by the part's name.
    """

    def __init__(self, shares: Sequence[TrainingBatches]):
        """Read the shares side by side; all must be at one position."""
        self._shares = tuple(shares)
        self.epochs_per_batch = self._shares[0].epochs_per_batch

    @property
    def position(self) -> int:
        """Global batches taken."""
        return self._shares[0].position

    def __next__(self) -> Int32[np.ndarray, "batch seq_plus_1"]:
        """Return the next rows, int32 [shares * rows of each, seq_len + 1]."""
        return np.concatenate([next(share) for share in self._shares])

    def close(self) -> None:
        """Stop the prefetch threads."""
        for share in self._shares:
            share.close()


def shares_of_evaluation(
    shares: Iterable[
        Iterable[tuple[Int32[np.ndarray, "rows seq_plus_1"], Bool[np.ndarray, "rows seq"]]]
    ],
) -> Iterator[tuple[Int32[np.ndarray, "batch seq_plus_1"], Bool[np.ndarray, "batch seq"]]]:
    """Return the batches of several shares as one: tokens and masks, one share behind the other."""
    for parts in zip(*shares, strict=True):
        tokens, masks = zip(*parts, strict=True)
        yield np.concatenate(tokens), np.concatenate(masks)
