"""TensorBoard's event files, written to a local folder and copied to an object store."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cartesian_moe_jax.paths import AnyPath, upload


class TensorBoardUpload:
    """Event files below ``target``; ``first_step`` and what came after it are to be forgotten.

    tensorboardX writes to local disks alone, except through packages we do not ask for.
    """

    def __init__(self, target: AnyPath, first_step: int):
        self._target, self._purge = target, first_step
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._writer: Any = None

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add one point per curve."""
        if self._folder is None:
            self._begin_file(step)
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def upload(self) -> None:
        """Copy the current file; the newest points may yet be on their way into it."""
        if self._folder is not None:
            self._writer.flush()
            self._copy()

    def end_file(self) -> None:
        """Finish the current file, and copy it: the next point begins another."""
        if self._folder is not None:
            self._writer.close()
            self._copy()
            self._folder.cleanup()
            self._folder = self._writer = None

    def _begin_file(self, step: int) -> None:
        from tensorboardX import SummaryWriter

        self._folder = tempfile.TemporaryDirectory(prefix="tensorboard-")
        # Names begin with the second of their making: the step tells files of one second apart.
        self._writer = SummaryWriter(
            self._folder.name, purge_step=self._purge, filename_suffix=f".{step:012d}"
        )
        self._purge = None

    def _copy(self) -> None:
        for file in Path(self._folder.name).iterdir():
            upload(file, self._target / file.name)
