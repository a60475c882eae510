"""A trace of some steps of a run, for TensorBoard or xprof."""

import sys
from typing import Any

import jax

from cartesian_moe_jax.paths import AnyPath


class Profiler:
    """Traces the steps that ``config.profile`` names into the run's tensorboard folder.

    Steps that a continued run has behind it cannot be traced; it says so.
    """

    def __init__(self, window: tuple[int, int] | None, folder: AnyPath, position: int):
        self._first, self._steps = window or (0, 0)
        self._folder, self._running = folder, False
        if window and self._first <= position:
            print(f"config.profile: step {self._first} is over, nothing is traced", file=sys.stderr)

    def before(self, step: int, state: Any) -> None:
        """Begin the trace where ``step``, of that state, is the first; the earlier ones end."""
        if self._steps and step == self._first:
            jax.block_until_ready(state)
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def after(self, step: int, result: Any) -> str:
        """End the trace where ``step``, with its result, is the last; return what to say of it."""
        if not self._running or step < self._first + self._steps - 1:
            return ""
        jax.block_until_ready(result)
        return self.close() or (
            f"steps {self._first} to {step} are traced: tensorboard --logdir={self._folder} "
            "shows them under Profile (pip install tensorboard xprof)"
        )

    def close(self) -> str:
        """End a trace if there is one; return what went wrong: that does not end the run."""
        if not self._running:
            return ""
        self._running = False
        try:
            jax.profiler.stop_trace()
        except (jax.errors.JaxRuntimeError, OSError) as error:
            return f"the trace could not be written to {self._folder}: {str(error).splitlines()[0]}"
        return ""
