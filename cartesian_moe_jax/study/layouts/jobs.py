"""Cases compiled in processes of their own, which may die of one of them."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import IO, Any

from cartesian_moe_jax.config import Config
from cartesian_moe_jax.parallel.targets import Target
from cartesian_moe_jax.study.layouts.row import Row, row_of
from cartesian_moe_jax.study.layouts.setups import Setup

WORKER = "cartesian_moe_jax.study.layouts.worker"


def rows_of(
    configs: Sequence[Config], target: Target, setup: Setup, *, run: bool = False, workers: int = 1
) -> Iterator[Row]:
    """Give the row of each config, in their order, as soon as it is known.

    Each of `workers` processes compiles one after another; where one dies, that case gets a row
    with what it said last, and another process goes on. Steps that are run have the machine to
    themselves.
    """
    with _Workers(target, setup, 1 if run else max(1, min(workers, len(configs)))) as at_work:
        yield from at_work.rows({"config": dataclasses.asdict(c), "run": run} for c in configs)


class _Workers:
    """Processes that share the cases."""

    def __init__(self, target: Target, setup: Setup, count: int):
        self._target, self._setup = target, setup
        self._pool = ThreadPoolExecutor(count)
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        self._started: list[_Worker] = []
        self._left = False
        for _ in range(count):
            self._start()

    def __enter__(self) -> "_Workers":
        return self

    def __exit__(self, *error: object) -> None:
        self._left = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        for worker in self._started:
            worker.kill()
        self._pool.shutdown(wait=True)
        for worker in self._started:
            worker.close()

    def rows(self, cases: Iterable[dict[str, Any]]) -> Iterator[Row]:
        return self._pool.map(self._row, cases)

    def _start(self) -> None:
        worker = _Worker(self._target, self._setup)
        self._started.append(worker)
        self._idle.put(worker)

    def _row(self, case: dict[str, Any]) -> Row:
        worker = self._idle.get()
        record = worker.ask(case)
        if record is not None:
            self._idle.put(worker)
            return row_of(record)
        if not self._left:
            self._start()
        return Row(case["config"]["parallel"]["layout"], reason=worker.last_words())


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

    def kill(self) -> None:
        """End the process; whoever waits for an answer gets none."""
        self._process.kill()

    def close(self) -> None:
        """Take leave of the process, which has been killed."""
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()
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
