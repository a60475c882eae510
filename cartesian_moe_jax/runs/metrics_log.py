"""Metrics on disk: JSON lines, and the same numbers for TensorBoard."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol


class MetricsLog(Protocol):
    """Where a run's numbers go."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record numbers of one step."""

    def close(self) -> None:
        """Finish writing."""


class NoMetrics:
    """For processes that leave the writing to the first."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record nothing."""

    def close(self) -> None:
        """Do nothing."""


class FileMetrics:
    """metrics.jsonl and tensorboard/ in the run directory."""

    def __init__(self, folder: Path, position: int):
        """Continue at ``position``: records of later steps (of a run cut short) are removed."""
        from tensorboardX import SummaryWriter

        file = folder / "metrics.jsonl"
        _keep_until(file, position)
        self._stream = file.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=position + 1)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one JSON line, and one point per TensorBoard curve."""
        self._stream.write(json.dumps({"step": step, **metrics}) + "\n")
        self._stream.flush()
        for name, value in metrics.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush both."""
        self._stream.close()
        self._board.close()


def read_metrics(file: Path) -> Iterator[dict[str, Any]]:
    """Read the records of a metrics.jsonl; a last line cut short by a crash is left out."""
    if not file.is_file():
        return
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return


def _keep_until(file: Path, position: int) -> None:
    if not file.is_file():
        return
    kept = [record for record in read_metrics(file) if record["step"] <= position]
    temporary = file.with_suffix(".partial")
    temporary.write_text("".join(json.dumps(r) + "\n" for r in kept), encoding="utf-8")
    os.replace(temporary, file)
