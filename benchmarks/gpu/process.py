"""A part as a process: it ends when its time is over, when it is done, or when we are ended."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from benchmarks.gpu.conditions import ROOT

SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
KILLED = 10.0
"""Seconds that a killed process may take to go: one whose GPU hangs may never."""


def run_process(command: Sequence[str], log: Path, seconds: float, **environment: str) -> str:
    """Run a command for at most so long, with what it says in ``log``; return how it ended."""
    left = ""
    with log.open("a") as said:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            left = _end(process)
    if status is None:
        return f"stopped after its {seconds:.0f} s; what it measured until then is kept{left}"
    return f"failed with exit status {status}: {last_line(log)}" if status else "done"


def _end(process: subprocess.Popen[bytes]) -> str:
    """End what is left of a process and of those that it started; say if it stays."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    try:
        process.wait(KILLED)
    except subprocess.TimeoutExpired:
        return f"; killed, but process {process.pid} stays"
    return ""


def last_line(log: Path) -> str:
    """The last line that says anything."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:200] if lines else "it said nothing"


@contextlib.contextmanager
def orderly_end() -> Iterator[None]:
    """Within it a signal to end is an exit, so that what must be done at the end is done.

    What was told to ignore a signal (nohup, a job in the background) still does.
    """
    before = {each: signal.getsignal(each) for each in SIGNALS}
    for each, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(each, _exit)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _exit(number: int, frame: FrameType | None) -> None:
    for each in SIGNALS:  # a second one would keep us from what the first lets us do
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)
