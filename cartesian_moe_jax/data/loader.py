"""The loader: shuffled, endless, resumable training batches; ordered, padded evaluation batches.

Both cut one global batch into equal row blocks, one per process: process p of n holds rows
[p * batch / n, (p + 1) * batch / n) of the same global batch for every n.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Int32

from cartesian_moe_jax.data.parts import Part
from cartesian_moe_jax.data.token_sequence import TokenSequence
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
        epochs_per_batch: how much of each part one global batch is, by the part's name.
    """

    def __init__(
        self,
        batches: Iterator[np.ndarray],
        seq_len: int,
        position: int,
        epochs_per_batch: dict[str, float],
    ):
        """Wrap a grain iterator that already starts at `position`."""
        self.seq_len = seq_len
        self.position = position
        self.epochs_per_batch = epochs_per_batch
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
    parts: Sequence[Part],
    seq_len: int,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    position: int = 0,
) -> TrainingBatches:
    """Return an endless iterator over shuffled windows, starting in O(1) at any position.

    Every window of a part appears once per epoch of that part, each epoch in another order; a
    batch may hold the end of one epoch and the start of the next. Of a mixture, each part gives
    its share of any long run of rows, to within 1 % of the smallest share.

    Args:
        parts: what windows are drawn from, and their shares.
        seq_len: inputs per window; a row holds seq_len + 1 tokens.
        batch_size: rows of the global batch, a multiple of process_count.
        seed: the order of the windows, 0 to 2**32 - 1.
        process_index: which rows to return, 0 to process_count - 1.
        process_count: processes that share a global batch.
        position: global batches already taken.

    Raises:
        UserError: a number is out of range, or a part is shorter than one window.
    """
    import grain

    rows = _rows_per_process(batch_size, process_index, process_count)
    if not 0 <= seed < 2**32:
        raise UserError(f"seed={seed} must lie between 0 and 2**32 - 1")
    if position < 0:
        raise UserError(f"position={position} must be at least 0")
    sources = [WindowSource(part.tokens, seq_len) for part in parts]
    endless = [grain.MapDataset.source(s).seed(seed).shuffle().repeat() for s in sources]
    weights = [part.weight for part in parts]
    windows = grain.MapDataset.mix(endless, weights) if len(endless) > 1 else endless[0]
    # Local batches of all processes alternate; a start in the middle is a slice, so O(1).
    # drop_remainder keeps grain's length of the endless dataset within a machine integer.
    local = windows.batch(rows, drop_remainder=True, batch_fn=np.stack)
    local = local[position * process_count + process_index :: process_count]
    options = grain.ReadOptions(PREFETCH_THREADS, PREFETCH_BATCHES)
    batches = iter(local.to_iter_dataset(options))
    shares = {
        part.name: part.weight * batch_size / len(source)
        for part, source in zip(parts, sources, strict=True)
    }
    return TrainingBatches(batches, seq_len, position, shares)


def evaluation_batches(
    packed: TokenSequence,
    seq_len: int,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    stride: int = 0,
    max_tokens: int = 0,
) -> Iterator[
    tuple[
        Int32[np.ndarray, "batch {seq_len}+1"],
        Bool[np.ndarray, "batch {seq_len}"],
    ]
]:
    """Return an iterator over a split, in order: each token but the first predicted once.

    Args:
        packed: the split to evaluate.
        seq_len: predictions per row.
        batch_size: rows of the global batch, a multiple of process_count.
        process_index: which rows to return, 0 to process_count - 1.
        process_count: processes that share a global batch; all get as many batches.
        stride: tokens from a window's start to the next one's, at most seq_len. Behind the first
            window, each predicts its last `stride` tokens, so that every one of them is seen with
            at least seq_len - stride tokens before it. 0: seq_len, windows do not overlap.
        max_tokens: predicted at most, from the start of the split, whatever the batch; 0: all.

    Returns:
        Pairs (tokens int32 [rows, seq_len + 1], mask bool [rows, seq_len]), rows being
        batch_size / process_count. The mask is true where tokens[:, 1:] is to be predicted;
        the last row and the last batch are padded with token 0, which stands for what lies
        behind `max_tokens` too.

    Raises:
        UserError: a number is out of range, or the split has nothing to predict.
    """
    rows = _rows_per_process(batch_size, process_index, process_count)
    if seq_len < 1:
        raise UserError(f"seq_len={seq_len} must be at least 1")
    if not 0 <= stride <= seq_len:
        raise UserError(f"stride={stride} must be 1 to seq_len={seq_len}, or 0 for seq_len")
    if max_tokens < 0:
        raise UserError(f"max_tokens={max_tokens} must be at least 0")
    if len(packed) < 2:
        raise UserError(f"split {packed.name!r} has {len(packed)} tokens, evaluation needs 2")
    stride = stride or seq_len
    length = _tokens_read(packed, max_tokens)
    windows = 1 + max(-(-(length - 1 - seq_len) // stride), 0)
    # Every process makes as many batches as the others, the last ones perhaps all padding.
    firsts = range(process_index * rows, windows + process_index * rows, batch_size)
    return (_window_batch(packed, length, first, rows, seq_len, stride) for first in firsts)


def _tokens_read(packed: TokenSequence, max_tokens: int) -> int:
    """Return how many tokens are read where ``max_tokens`` are predicted at most (0: all)."""
    return min(len(packed), max_tokens + 1) if max_tokens else len(packed)


def _window_batch(
    packed: TokenSequence, length: int, first: int, rows: int, seq_len: int, stride: int
) -> tuple[
    Int32[np.ndarray, "{rows} {seq_len}+1"],
    Bool[np.ndarray, "{rows} {seq_len}"],
]:
    """Return windows `first` to `first + rows`, and which targets no other window predicts.

    They are windows of the first `length` tokens.
    """
    start = first * stride
    tokens = np.zeros((rows - 1) * stride + seq_len + 1, np.int32)
    found = packed.read(start, min(start + len(tokens), length)) if start < length else ()
    tokens[: len(found)] = found
    view = np.lib.stride_tricks.sliding_window_view
    windows = view(tokens, seq_len + 1)[::stride]
    exists = view(np.arange(1, len(tokens)) < len(found), seq_len)[::stride]
    new = np.arange(seq_len) >= seq_len - stride
    starts_the_split = (first + np.arange(rows) == 0)[:, None]
    return windows.copy(), exists & (new | starts_the_split)


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
