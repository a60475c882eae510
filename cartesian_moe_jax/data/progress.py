"""What preparing data shows while it works: a bar per stage, plain lines without a terminal."""

import sys
from types import TracebackType
from typing import Any

FORMAT = "{desc} |{bar:20}| {n_fmt}/{total_fmt} {unit}  {rate_fmt}  left {remaining}"


class StageBar:
    """A context that shows how much of a stage is done; nothing where the stage is short."""

    def __init__(self, name: str, total: int, unit: str, *, show: bool):
        self._name, self._total, self._unit, self._show = name, total, unit, show
        self._bar: Any = None

    def __enter__(self) -> "StageBar":
        from tqdm import tqdm

        terminal = sys.stderr.isatty()
        if not terminal:
            tqdm.monitor_interval = 0  # or a thread adds lines between ours
        self._bar = tqdm(
            total=self._total,
            desc=self._name,
            unit=self._unit,
            unit_scale=True,
            disable=not self._show,
            file=sys.stderr,
            delay=1.0,
            mininterval=0.5 if terminal else 15.0,
            dynamic_ncols=True,
            bar_format=FORMAT if terminal else FORMAT + "\n",
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

    def advance(self, count: int) -> None:
        """Count what was done since the last call."""
        self._bar.update(count)
