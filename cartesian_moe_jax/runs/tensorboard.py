"""TensorBoard's event files, without which a run goes on: metrics.jsonl has the same numbers."""

import re
import socket
import struct
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from cartesian_moe_jax.errors import UserError

Board = TypeVar("Board")

NOT_IN_TAGS = re.compile(r"[^-/\w.]")
"""Names of sources may hold what TensorBoard's names do not."""


class EventFile:
    """An event file in a local folder; every call writes through, and raises OSError if it cannot.

    tensorboardX's own writer is a thread: it ends at its first error, and the run then waits for
    it for ever.
    """

    def __init__(self, folder: Path, first_step: int | None, suffix: str = ""):
        """``first_step``, and what came after it in earlier files, is to be forgotten."""
        from tensorboardX.proto.event_pb2 import SessionLog

        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}{suffix}"
        self._stream = (folder / name).open("ab")
        self._write(file_version="brain.Event:2")
        if first_step is not None:
            self._write(step=first_step, session_log=SessionLog(status=SessionLog.START))

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add one point per curve."""
        from tensorboardX.proto.summary_pb2 import Summary

        points = [
            Summary.Value(tag=NOT_IN_TAGS.sub("_", name), simple_value=value)
            for name, value in metrics.items()
        ]
        self._write(step=step, summary=Summary(value=points))

    def close(self) -> None:
        """End the file."""
        self._stream.close()

    def _write(self, **fields: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.record_writer import masked_crc32c

        event = Event(wall_time=time.time(), **fields).SerializeToString()
        length = struct.pack("<Q", len(event))
        sums = (struct.pack("<I", masked_crc32c(part)) for part in (length, event))
        self._stream.write(length + next(sums) + event + next(sums))
        self._stream.flush()


class Expendable(Generic[Board]):
    """What writes for TensorBoard, until it first fails: that is said, and the rest left out."""

    def __init__(self, begin: Callable[[], Board]):
        self._board: Board | None = None
        self._attempt(lambda: setattr(self, "_board", begin()))

    def do(self, action: Callable[[Board], None]) -> None:
        """Do something with it, if it has not failed."""
        if (board := self._board) is not None:
            self._attempt(lambda: action(board))

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except (OSError, UserError) as error:
            self._board = None
            reason = getattr(error, "strerror", None) or error
            print(
                f"warning: tensorboard/ gets no more numbers, the metrics files do: {reason}",
                file=sys.stderr,
            )
