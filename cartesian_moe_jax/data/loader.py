"""The loader: shuffled, endless, resumable training batches; ordered, padded evaluation batches.

Both cut one global batch into equal row blocks, one per process: process p of n holds rows
[p * batch / n, (p + 1) * batch / n) of the same global batch for every n.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int32

from cartesian_moe_jax.data.packed import PackedTokens
from cartesian_moe_jax.data.windows import WindowSource
from cartesian_moe_jax.errors import UserError

# Two threads hide a cold disk; the buffer is in batches of this process.
PREFETCH_THREADS = 2
PREFETCH_BATCHES = 16


class TrainingBatches(Iterator[np.ndarray]):
    """An endless iterator over this process's rows of the global batches.

    Attributes:
        seq_len: inputs per window.
        position: global batches taken so far, counted from the start of training. To resume,
            give it to `training_batches`.
        batches_per_epoch: global batches in which each window appears once; need not be whole.
    """

    def __init__(
        self,
        batches: Iterator[np.ndarray],
        seq_len: int,
        position: int,
        batches_per_epoch: float,
    ):
        """Wrap a grain iterator that already starts at `position`."""
        self.seq_len = seq_len
        self.position = position
        self.batches_per_epoch = batches_per_epoch
        self._batches = batches

    def __next__(self) -> Int32[np.ndarray, "batch {self.seq_len}+1"]:
        """Return the next batch, int32 [batch / process_count, seq_len + 1]."""
        batch = next(self._batches)
        self.position += 1
        return batch

    def close(self) -> None:
        """Stop the prefetch threads."""
        self._batches.close()


def training_batches(
    packed: PackedTokens,
    seq_len: int,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    position: int = 0,
) -> TrainingBatches:
    """Return an endless iterator over shuffled windows, starting in O(1) at any position.

    Every window appears once per epoch, each epoch in another order; a batch may hold the end
    of one epoch and the start of the next.

    Args:
        packed: the split to draw windows from.
        seq_len: inputs per window; a row holds seq_len + 1 tokens.
        batch_size: rows of the global batch, a multiple of process_count.
        seed: the order of the windows, 0 to 2**32 - 1.
        process_index: which rows to return, 0 to process_count - 1.
        process_count: processes that share a global batch.
        position: global batches already taken.

    Raises:
        UserError: a number is out of range, or the split is shorter than one window.
    """
    import grain

    rows = _rows_per_process(batch_size, process_index, process_count)
    if not 0 <= seed < 2**32:
        raise UserError(f"seed={seed} must lie between 0 and 2**32 - 1")
    if position < 0:
        raise UserError(f"position={position} must be at least 0")
    source = WindowSource(packed, seq_len)
    windows = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
    # Local batches of all processes alternate; a start in the middle is a slice, so O(1).
    # drop_remainder keeps grain's length of the endless dataset within a machine integer.
    local = windows.batch(rows, drop_remainder=True, batch_fn=np.stack)
    local = local[position * process_count + process_index :: process_count]
    options = grain.ReadOptions(PREFETCH_THREADS, PREFETCH_BATCHES)
    batches = iter(local.to_iter_dataset(options))
    return TrainingBatches(batches, seq_len, position, len(source) / batch_size)


def evaluation_batches(
    packed: PackedTokens,
    seq_len: int,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[
    tuple[
        Int32[np.ndarray, "batch {seq_len}+1"],
        Bool[np.ndarray, "batch {seq_len}"],
    ]
]:
    """Return an iterator over the whole split, in order: each token but the first predicted once.

    Args:
        packed: the split to evaluate.
        seq_len: predictions per row.
        batch_size: rows of the global batch, a multiple of process_count.
        process_index: which rows to return, 0 to process_count - 1.
        process_count: processes that share a global batch; all get as many batches.

    Returns:
        Pairs (tokens int32 [rows, seq_len + 1], mask bool [rows, seq_len]), rows being
        batch_size / process_count. The mask is true where tokens[:, 1:] is to be predicted;
        the last row and the last batch are padded with token 0.

    Raises:
        UserError: a number is out of range, or the split has nothing to predict.
    """
    rows = _rows_per_process(batch_size, process_index, process_count)
    if seq_len < 1:
        raise UserError(f"seq_len={seq_len} must be at least 1")
    if len(packed) < 2:
        raise UserError(f"split {packed.name!r} has {len(packed)} tokens, evaluation needs 2")
    # Every process makes as many batches as the others, the last ones perhaps all padding.
    starts = range(0, len(packed) - 1, batch_size * seq_len)
    offset = process_index * rows * seq_len
    return (_padded_batch(packed, start + offset, rows, seq_len) for start in starts)


def _padded_batch(
    packed: PackedTokens, start: int, rows: int, seq_len: int
) -> tuple[
    Int32[np.ndarray, "{rows} {seq_len}+1"],
    Bool[np.ndarray, "{rows} {seq_len}"],
]:
    """Return `rows` windows from token `start` on, and which targets exist."""
    tokens = np.zeros(rows * seq_len + 1, np.int32)
    found = packed.read(start, start + len(tokens)) if start < len(packed) else ()
    tokens[: len(found)] = found
    windows = np.lib.stride_tricks.sliding_window_view(tokens, seq_len + 1)[::seq_len]
    mask = np.arange(1, len(tokens)) < len(found)
    return windows.copy(), mask.reshape(rows, seq_len)


def _rows_per_process(batch_size: int, process_index: int, process_count: int) -> int:
    if not 0 <= process_index < process_count:
        raise UserError(
            f"process_index={process_index} must be below process_count={process_count}"
        )
    if batch_size < 1 or batch_size % process_count:
        raise UserError(
            f"batch_size={batch_size} must be a positive multiple of process_count={process_count}"
        )
    return batch_size // process_count
