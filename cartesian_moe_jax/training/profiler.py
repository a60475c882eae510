"""A trace of some steps of a run, for TensorBoard or xprof."""

import sys
import tempfile
from pathlib import Path
from typing import Any

import jax

from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.paths import AnyPath, make_folder, upload


class Profiler:
    """Traces the steps that ``config.profile`` names into the run's tensorboard folder.

    Steps that a continued run has behind it cannot be traced; it says so.
    """

    def __init__(self, window: tuple[int, int] | None, folder: AnyPath, position: int):
        self._first, self._steps = window or (0, 0)
        self._folder = folder
        self._local: tempfile.TemporaryDirectory[str] | None = None
        if window and self._first <= position:
            print(f"config.profile: step {self._first} is over, nothing is traced", file=sys.stderr)

    def before(self, step: int, state: Any) -> None:
        """Begin the trace where ``step``, of that state, is the first; the earlier ones end."""
        if not self._steps or step != self._first:
            return
        jax.block_until_ready(state)
        # jax never ends a trace that it cannot write: a folder of our own, and a copy of it.
        local = tempfile.TemporaryDirectory()
        try:
            jax.profiler.start_trace(local.name)
        except RuntimeError as error:  # another trace of this process runs
            print(f"nothing is traced: {error}", file=sys.stderr)
        else:
            self._local = local

    def after(self, step: int, result: Any) -> str:
        """End the trace where ``step``, with its result, is the last; return what to say of it."""
        if not self._local or step < self._first + self._steps - 1:
            return ""
        jax.block_until_ready(result)
        return self.close() or (
            f"steps {self._first} to {step} are traced: tensorboard --logdir={self._folder} "
            "shows them under Profile (pip install tensorboard xprof)"
        )

    def close(self) -> str:
        """End a trace if there is one; return what went wrong: that does not end the run."""
        if not self._local:
            return ""
        local, self._local = self._local, None
        with local as folder:
            try:
                jax.profiler.stop_trace()
                _copy(Path(folder), self._folder)
            except (UserError, jax.errors.JaxRuntimeError) as error:
                return f"the trace is lost: {str(error).splitlines()[0]}"
        return ""


def _copy(folder: Path, target: AnyPath) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            copy = target / file.relative_to(folder).as_posix()
            make_folder(copy.parent)
            upload(file, copy)
