"""Jobs run in order by several processes, or in this one.

A job is a class: `Job(settings)` makes it ready, `job(request, report)` does one piece of work and
returns JSON data and arrays; `report` sends JSON data on the way. Workers are processes of their
own that import neither jax nor the caller's main module. Nothing is pickled: messages are JSON
and plain buffers.
"""

import collections
import contextlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection, Pipe
from queue import SimpleQueue
from typing import Any

import numpy as np

from cartesian_moe_jax.errors import UserError

JOBS: Mapping[str, str] = {
    "read": "cartesian_moe_jax.data.sources.local_text:ReadFiles",
    "tokenize": "cartesian_moe_jax.data.tokenizing:TokenizeRange",
}
"""Where each job lies."""

ERRORS = {"wrong": UserError, "refused": OSError, "crash": RuntimeError}
"""How a job fails: wrong input, what the file system refuses, and our own mistakes."""

Report = Callable[[dict[str, Any]], None]
Reply = tuple[dict[str, Any], list[np.ndarray]]


def run_jobs(
    name: str,
    settings: dict[str, Any],
    requests: Sequence[dict[str, Any]],
    workers: int,
    report: Report = lambda message: None,
) -> Iterator[Reply]:
    """Yield the reply to each request, in their order.

    With one worker, or one request, the work is done in this process as replies are asked for.
    `report` is called with what jobs report, from several threads, one at a time.

    Raises:
        UserError: a job raised it, or a worker died.
    """
    workers = min(workers, len(requests))
    if workers > 1:
        yield from _in_workers(name, settings, requests, workers, report)
    elif requests:
        job = make_job(name, settings)
        for request in requests:
            yield job(request, report)


def make_job(name: str, settings: dict[str, Any]) -> Callable[[dict[str, Any], Report], Reply]:
    """Return a job that is ready."""
    module, _, attribute = JOBS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)(settings)


def _in_workers(
    name: str,
    settings: dict[str, Any],
    requests: Sequence[dict[str, Any]],
    count: int,
    report: Report,
) -> Iterator[Reply]:
    lock = threading.Lock()

    def report_one(message: dict[str, Any]) -> None:
        with lock:
            report(message)

    with contextlib.ExitStack() as stack:
        idle: SimpleQueue[Worker] = SimpleQueue()
        threads = stack.enter_context(ThreadPoolExecutor(count))
        # Entered after the threads: workers are killed first, which ends the threads' waiting.
        for _ in range(count):
            idle.put(stack.enter_context(Worker(name, settings)))

        def work(request: dict[str, Any]) -> Reply:
            worker = idle.get()
            try:
                return worker.ask(request, report_one)
            finally:
                idle.put(worker)

        # Bounded, so that replies do not pile up in memory behind a slow one.
        pending: collections.deque[Future[Reply]] = collections.deque()
        stack.callback(lambda: [future.cancel() for future in pending])
        for request in requests:
            pending.append(threads.submit(work, request))
            if len(pending) > 2 * count:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


class Worker:
    """A process that does jobs of one kind. Use it as a context: leaving it kills the process."""

    def __init__(self, name: str, settings: dict[str, Any]):
        self._connection, child = Pipe()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  open as long as the process
        # Each worker is one core's work; libraries must not start threads for all of them.
        single = {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cartesian_moe_jax.data.worker", str(child.fileno())],
            pass_fds=[child.fileno()],
            env={**os.environ, **single, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            start_new_session=True,  # Ctrl-C is for the parent alone
        )
        child.close()
        self._setup: dict[str, Any] | None = {"job": name, "settings": settings}

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *error: Any) -> None:
        self._process.kill()
        self._process.wait()
        self._connection.close()
        self._log.close()

    def ask(self, request: dict[str, Any], report: Report) -> Reply:
        """Return the reply to a request."""
        try:
            if self._setup is not None:
                # Not where the process is started: settings may be large, and sending waits for it.
                self._connection.send_bytes(json.dumps(self._setup).encode())
                self._setup = None
            self._connection.send_bytes(json.dumps(request).encode())
            while "report" in (message := json.loads(self._connection.recv_bytes())):
                report(message["report"])
            types = message.get("arrays", [])
            arrays = [np.frombuffer(self._connection.recv_bytes(), dtype) for dtype in types]
        except (EOFError, OSError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=10.0)
            raise UserError(
                f"a worker process died (status {self._process.returncode}{self._last_words()}): "
                "memory may be short; fewer --workers need less"
            ) from None
        for name, error in ERRORS.items():
            if name in message:
                raise error(message[name])
        return message["reply"], arrays

    def _last_words(self) -> str:
        """Return the last line that the process wrote on standard error."""
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", errors="replace").split("\n")
        return next((f", {line.strip()}" for line in reversed(lines) if line.strip()), "")


def send_reply(connection: Connection, reply: Reply) -> None:
    """Send what `Worker.ask` receives."""
    message, arrays = reply
    header = {"reply": message, "arrays": [array.dtype.str for array in arrays]}
    connection.send_bytes(json.dumps(header).encode())
    for array in arrays:
        connection.send_bytes(array.data.cast("B") if array.size else b"")
