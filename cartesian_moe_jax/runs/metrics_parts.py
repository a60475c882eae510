"""Metrics in an object store, where nothing can be appended: parts that are written whole."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from cartesian_moe_jax.paths import AnyPath, write_atomically
from cartesian_moe_jax.runs.metric_records import as_lines, keep_until, part_file
from cartesian_moe_jax.runs.tensorboard import Expendable
from cartesian_moe_jax.runs.tensorboard_upload import TensorBoardUpload

FLUSH_SECONDS = 60.0
"""An upload takes some tenths of a second, and a minute's records are soon trained again."""
PART_RECORDS = 1000
"""Each flush writes the current part anew: this keeps it to about a megabyte."""


class PartMetrics:
    """metrics/STEP.jsonl, named for the first step of each part, and tensorboard/.

    The current part is written at the first record, then every ``FLUSH_SECONDS``, and at the
    end: a crash loses the records since. ``clock`` counts seconds.
    """

    def __init__(self, folder: AnyPath, position: int, clock: Callable[[], float] = time.monotonic):
        """Continue at ``position``: records of later steps (of a run cut short) are removed."""
        keep_until(folder, position)
        self._folder, self._clock = folder, clock
        self._records: list[dict[str, Any]] = []
        self._unwritten, self._flushed = 0, -math.inf
        self._board = Expendable(lambda: TensorBoardUpload(folder / "tensorboard", position + 1))

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a record; what is due is written."""
        # Not between two records of one step: the next part would take this one's name or step.
        if len(self._records) >= PART_RECORDS and self._records[-1]["step"] != step:
            self._end_part()
        self._records.append({"step": step, **metrics})
        self._unwritten += 1
        self._board.do(lambda board: board.add(step, metrics))
        if self._clock() - self._flushed >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the current part; raises UserError if it cannot be written."""
        if not self._unwritten:
            return
        first = self._records[0]["step"]
        write_atomically(part_file(self._folder, first), as_lines(self._records))
        self._board.do(TensorBoardUpload.upload)
        self._unwritten, self._flushed = 0, self._clock()

    def close(self) -> None:
        """Write what has not been written."""
        self._end_part()

    def _end_part(self) -> None:
        self.flush()
        self._board.do(TensorBoardUpload.end_file)
        self._records = []
