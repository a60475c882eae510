"""Stopping a run from outside: the step in hand is finished and saved."""

import signal
from types import FrameType
from typing import Any


class StopRequest:
    """A context in which Ctrl-C and SIGTERM set ``signal`` instead of killing the process.

    A second signal of the same kind acts as usual.
    """

    def __init__(self):
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        signal.signal(number, self._before[number])
