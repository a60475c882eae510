"""Several processes as one run: how they join, agree, and leave."""

import contextlib
import os
import sys
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from cartesian_moe_jax.errors import AgreedError, UserError
from cartesian_moe_jax.parallel.environments import Place
from cartesian_moe_jax.parallel.rendezvous import meet

CONNECT_SECONDS = 120
"""For jax to connect processes that have met."""
LEAVE_SECONDS = 1800
"""For the others to finish what the last step leaves to do."""


def join(place: Place, seconds: float, *, stops_together: bool) -> None:
    """Meet the other processes, and let jax connect them; call it before jax has devices.

    ``seconds`` is how long to wait for the others. ``stops_together``: a SIGTERM is noted, and
    ``stop_is_due`` tells all of them, in place of ending the process.
    Raises UserError if some do not come.
    """
    meet(place.coordinator, place.count, place.index, seconds)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", stops_together)
    jax.distributed.initialize(
        place.coordinator,
        place.count,
        place.index,
        local_device_ids=place.local_device,
        cluster_detection_method="deactivate",
        initialization_timeout=CONNECT_SECONDS,
        shutdown_timeout_seconds=LEAVE_SECONDS,
    )
    _hide_what_libraries_print()


def leave() -> None:
    """Disconnect, once all other processes do."""
    jax.distributed.shutdown()


def is_first() -> bool:
    """Say whether this process is the one that writes and prints."""
    return jax.process_index() == 0


def say(line: str, *, error: bool = False) -> None:
    """Print a line, in the first process alone; ``error``: beside the output."""
    if is_first():
        print(line, file=sys.stderr if error else sys.stdout)


def stop_is_due(step: int) -> bool:
    """Say, in all processes at the same step, that one of them was sent a SIGTERM.

    Call it in all of them, at every step.
    """
    return multihost_utils.reached_preemption_sync_point(step)


def texts_of_all(text: str) -> list[str]:
    """Return every process's text, in the order of the processes."""
    if jax.process_count() == 1:
        return [text]
    data = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array([data.size], np.int32)).reshape(-1)
    padded = np.zeros(max(int(lengths.max()), 1), np.uint8)
    padded[: data.size] = data
    rows = multihost_utils.process_allgather(padded).reshape(len(lengths), -1)
    return [bytes(row[:size]).decode() for row, size in zip(rows, lengths, strict=True)]


@contextlib.contextmanager
def agreed() -> Iterator[None]:
    """Let a UserError of one process, within the block, be one of all at its end.

    Or the others would wait for that process in their next exchange.
    """
    try:
        yield
    except UserError as error:
        _raise_first(texts_of_all(str(error)))
    else:
        _raise_first(texts_of_all(""))


def _raise_first(lines: list[str]) -> None:
    wrong = [(number, line) for number, line in enumerate(lines) if line]
    if not wrong:
        return
    number, line = wrong[0]
    alone = len(wrong) < len(lines)
    raise AgreedError(f"process {number}: {line}" if alone else line)


def require_same(text: str, what: str) -> None:
    """Raise UserError in all processes unless ``text``, which is short, is the same in all."""
    texts = texts_of_all(text)
    other = next((i for i, theirs in enumerate(texts) if theirs != texts[0]), None)
    if other is not None:
        raise AgreedError(f"{what}: process 0 has {texts[0]}, process {other} has {texts[other]}")


def _hide_what_libraries_print() -> None:
    """Keep standard output for what Python prints: gloo prints there, in every process."""
    sys.stdout.flush()
    ours = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    sys.stdout = os.fdopen(ours, "w", buffering=1 if sys.stdout.isatty() else -1)
