"""Cases compiled one after another in a process of their own, that may die of one of them."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO, Any

from cartesian_moe_jax.config import Config
from cartesian_moe_jax.parallel.targets import Target
from cartesian_moe_jax.study.layouts.row import Row, row_of
from cartesian_moe_jax.study.layouts.setups import Setup

WORKER = "cartesian_moe_jax.study.layouts.worker"


def rows_of(
    configs: Sequence[Config], target: Target, setup: Setup, *, run: bool = False
) -> Iterator[Row]:
    """Give the row of each config, as soon as it is known.

    One process compiles all; where it dies, that case gets a row with what it said last, and
    another process goes on.
    """
    with contextlib.ExitStack() as stack:
        worker: _Worker | None = None
        for config in configs:
            worker = worker or stack.enter_context(_Worker(target, setup))
            record = worker.ask({"config": dataclasses.asdict(config), "run": run})
            if record is None:
                yield Row(config.parallel.layout, reason=worker.last_words())
                worker = None
            else:
                yield row_of(record)


class _Worker:
    """A process that answers, until it dies or is left."""

    def __init__(self, target: Target, setup: Setup):
        self._said: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [setup.python, "-m", WORKER, target.name, str(os.getpid())],
            env=setup.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
        )

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._said.close()

    def ask(self, case: dict[str, Any]) -> dict[str, Any] | None:
        """Return the answer; None if the process has died."""
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(case), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        return json.loads(answer) if answer.endswith("\n") else None

    def last_words(self) -> str:
        """Return how the process ended, and the last line that it wrote."""
        status = self._process.wait()
        ended = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        self._said.seek(0)
        lines = [line.strip() for line in self._said if line.strip()]
        return f"the compiler's process ended with {ended}: {(lines or ['it said nothing'])[-1]}"[
            :300
        ]
