"""A process among others, from its command line: how it joins them, and how it ends."""

import os
import sys
import traceback
from typing import NoReturn

from absl import flags

from cartesian_moe_jax.errors import AgreedError
from cartesian_moe_jax.parallel.environments import Place, find_place

COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT, where process 0 of several awaits the others."
)
PROCESSES = flags.DEFINE_integer(
    "processes", None, "How many make this run; 1: this one alone, whatever started it.", 1
)
PROCESS = flags.DEFINE_integer("process", None, "Which of them this is, from 0.", 0)
JOIN_SECONDS = flags.DEFINE_float(
    "join_seconds", 300.0, "How long processes wait for one another at the start.", 0.0
)

FAILED = 1
LOST = ("Connection closed by peer", "Connection reset by peer", "heartbeat timeout")
"""What jax says to a process when it no longer hears another."""

_joined: list[Place] = []


def join(*, stops_together: bool) -> None:
    """Join the other processes, if flags or the environment tell of any.

    ``stops_together``: see parallel/processes.py. Raises UserError where what they tell is
    incomplete, or not all processes come.
    """
    given = Place(COORDINATOR.value, PROCESSES.value, PROCESS.value)
    place = find_place(given, os.environ)
    if place is None:
        return
    # Not before: jax takes a second to import, and one process does not need this.
    from cartesian_moe_jax.parallel import processes

    processes.join(place, JOIN_SECONDS.value, stops_together=stops_together)
    _joined.append(place)


def end(status: int, line: str = "", error: BaseException | None = None) -> NoReturn:
    """Say a line, if there is one, and exit: together with the others if all know of it.

    Otherwise at once: who left the others politely would wait for them, and they for it.
    """
    together = error is None or isinstance(error, AgreedError)
    if _joined and any(words in line for words in LOST):
        status, line = FAILED, "another process has ended; the same command continues the run"
    if line and not (_joined and together and _joined[0].index):
        who = f"process {_joined[0].index}: " if _joined and not together else ""
        print(f"error: {who}{line}", file=sys.stderr)
    if _joined and not together:
        _exit_alone(status)
    if _joined:
        from cartesian_moe_jax.parallel import processes

        processes.leave()
    sys.exit(status)


def end_unexpectedly(error: Exception) -> None:
    """Exit at once if there are other processes, which then notice; else return."""
    if not _joined:
        return
    if any(words in str(error) for words in LOST):
        end(FAILED, str(error), error)
    traceback.print_exc()
    _exit_alone(FAILED)


def _exit_alone(status: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
