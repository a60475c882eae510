"""How far a study is, and how long it may take yet."""

import time
from collections.abc import Sequence


class Clock:
    """Counts the runs of a study, and measures time per step on those that are made here."""

    def __init__(self, planned: Sequence[int]):
        """Take the steps of every run to come."""
        self._runs, self._steps = len(planned), sum(planned)
        self._number = 0
        self._seconds, self._timed_steps = 0.0, 0
        self._since = time.monotonic()

    def skip(self, steps: int) -> None:
        """Count a run that was there."""
        self._number += 1
        self._steps = max(self._steps - steps, 0)

    def line(self, what: str) -> str:
        """Begin a run; return what is said of it."""
        self._since = time.monotonic()
        self._number += 1
        left = ""
        if self._timed_steps:
            seconds = self._seconds / self._timed_steps * self._steps
            left = f", about {_duration(seconds)} left"
        return f"[{self._number}/{max(self._runs, self._number)}] {what}{left}"

    def finish(self, steps: int) -> None:
        """End the run that was begun."""
        self._seconds += time.monotonic() - self._since
        self._timed_steps += steps
        self._steps = max(self._steps - steps, 0)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return (
        f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{max(minutes, 1)} min"
    )
