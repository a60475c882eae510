"""Metrics of a run: where its numbers go, as JSON lines and for TensorBoard."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from cartesian_moe_jax.paths import AnyPath, is_remote, reported
from cartesian_moe_jax.runs.metric_records import (
    FILE,
    as_lines,
    keep_until,
    read_metrics,
    run_metrics,
)
from cartesian_moe_jax.runs.metrics_parts import PartMetrics
from cartesian_moe_jax.runs.tensorboard import EventFile, Expendable

__all__ = ["FileMetrics", "MetricsLog", "NoMetrics", "open_metrics", "read_metrics", "run_metrics"]


@runtime_checkable
class MetricsLog(Protocol):
    """Where a run's numbers go."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record numbers of one step."""

    def flush(self) -> None:
        """Put down what was recorded, before a checkpoint from which the run may go on."""

    def close(self) -> None:
        """Finish writing."""


def open_metrics(folder: AnyPath, position: int) -> MetricsLog:
    """Continue the metrics of the run in ``folder``: in one file, or in parts where it is remote.

    Records of steps after ``position``, of a run cut short, are removed.
    """
    form = PartMetrics if is_remote(folder) else FileMetrics
    return form(folder, position)


class NoMetrics:
    """For processes that leave the writing to the first."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record nothing."""

    def flush(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class FileMetrics:
    """metrics.jsonl and tensorboard/ in the run directory."""

    def __init__(self, folder: AnyPath, position: int):
        """Continue at ``position``: records of later steps (of a run cut short) are removed."""
        keep_until(folder, position)
        self._file = folder / FILE
        with reported("written", self._file):
            self._stream = self._file.open("a", encoding="utf-8")
        self._board = Expendable(lambda: EventFile(folder / "tensorboard", position + 1))

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one JSON line, and one point per TensorBoard curve.

        Raises UserError if the line cannot be written.
        """
        with reported("written", self._file):
            self._stream.write(as_lines([{"step": step, **metrics}]))
            self._stream.flush()
        self._board.do(lambda board: board.add(step, metrics))

    def flush(self) -> None:
        """Do nothing: each record is written at once."""

    def close(self) -> None:
        """End both files."""
        self._board.do(EventFile.close)
        with reported("written", self._file):
            self._stream.close()
