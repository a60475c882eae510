"""Stopping a run from outside: the step in hand is finished and saved."""

import os
import signal
from types import FrameType
from typing import Any

import jax

from cartesian_moe_jax.parallel.processes import stop_is_due


class StopRequest:
    """A context in which Ctrl-C and SIGTERM set ``signal`` instead of killing the process.

    A second signal of the same kind acts as usual. Of several processes, one that is sent either
    stops all; SIGTERM is then jax's, which tells the others.
    """

    def __init__(self):
        self.signal: int | None = None
        self._before: dict[int, Any] = {}
        self._several = jax.process_count() > 1

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT,) if self._several else (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def is_due(self, step: int) -> bool:
        """Say whether ``step`` is the last; call it at every step."""
        return stop_is_due(step) if self._several else self.signal is not None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        signal.signal(number, self._before[number])
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)
