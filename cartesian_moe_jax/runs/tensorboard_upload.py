"""TensorBoard's event files, written to a local folder and copied to an object store."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from cartesian_moe_jax.paths import AnyPath, upload
from cartesian_moe_jax.runs.tensorboard import EventFile


class TensorBoardUpload:
    """Event files below ``target``; ``first_step`` and what came after it are to be forgotten.

    Raises OSError where the local folder, and UserError where ``target``, cannot be written.
    """

    def __init__(self, target: AnyPath, first_step: int):
        self._target, self._purge = target, first_step
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._file: EventFile | None = None

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add one point per curve."""
        if self._folder is None:
            self._begin_file(step)
        self._file.add(step, metrics)

    def upload(self) -> None:
        """Copy the current file."""
        if self._folder is not None:
            self._copy()

    def end_file(self) -> None:
        """Finish the current file, and copy it: the next point begins another."""
        if self._folder is not None:
            self._file.close()
            self._copy()
            self._folder.cleanup()
            self._folder = self._file = None

    def _begin_file(self, step: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tensorboard-")
        # Names begin with the second of their making: the step tells files of one second apart.
        self._file = EventFile(Path(self._folder.name), self._purge, f".{step:012d}")
        self._purge = None

    def _copy(self) -> None:
        for file in Path(self._folder.name).iterdir():
            upload(file, self._target / file.name)
