"""All processes meet before jax connects them, since jax ends a process that met too few.

Process 0 listens where jax's coordinator will; each other process says which it is, and waits for
the answer, which all get at once: that all have come, or which have not.
"""

import contextlib
import re
import selectors
import socket
import time

from cartesian_moe_jax.errors import UserError

HELLO, READY, LONGEST = re.compile(rb"cmoe (\d+) of (\d+)\n"), "ready", 4096
RETRY_SECONDS = 0.1


def meet(coordinator: str, count: int, index: int, seconds: float) -> None:
    """Wait until all ``count`` processes are at ``coordinator``, HOST:PORT; nothing is left open.

    Raises UserError, in every process that came, where one did not within ``seconds``.
    """
    end = time.monotonic() + seconds
    host, _, port = coordinator.rpartition(":")
    if index:
        _go(host.strip("[]"), int(port), count, index, end)
    else:
        _await(coordinator, int(port), count, seconds, end)


def _await(coordinator: str, port: int, count: int, seconds: float, end: float) -> None:
    try:
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        server = socket.create_server(("", port), family=family, backlog=1024, dualstack_ipv6=both)
    except OSError as error:
        raise UserError(
            f"--coordinator={coordinator}: process 0 cannot listen there: {error.strerror}"
        ) from error
    asking: list[socket.socket] = []
    with contextlib.ExitStack() as stack, server:
        here, wrong = _gather(server, asking, count, end, stack)
        missing = sorted(set(range(1, count)) - here)
        if missing and not wrong:
            wrong = (
                f"{1 + len(here)} of {count} processes came to {coordinator} within {seconds:g} s: "
                f"{_listed(missing)} did not"
            )
        for connection in asking:
            with contextlib.suppress(OSError):
                connection.sendall((wrong or READY).encode() + b"\n")
        for connection in asking:
            # Who closes first keeps the port busy for a while: that must not be process 0.
            with contextlib.suppress(OSError):
                connection.settimeout(5.0)
                connection.recv(1)
    if wrong:
        raise UserError(wrong)


def _gather(
    server: socket.socket,
    asking: list[socket.socket],
    count: int,
    end: float,
    stack: contextlib.ExitStack,
) -> tuple[set[int], str]:
    """Wait until all are here, or time is over; return who is, and what is wrong if anything is.

    ``asking`` gets the connections that await an answer.
    """
    here: set[int] = set()
    selector = stack.enter_context(selectors.DefaultSelector())
    selector.register(server, selectors.EVENT_READ)
    while len(here) < count - 1 and (left := end - time.monotonic()) > 0:
        for key, _ in selector.select(left):
            if key.fileobj is server:
                connection = stack.enter_context(server.accept()[0])
                connection.settimeout(5.0)
                selector.register(connection, selectors.EVENT_READ)
                continue
            selector.unregister(key.fileobj)
            said = HELLO.fullmatch(_received(key.fileobj))
            if not said:
                continue  # not one of ours, or one that has given up
            asking.append(key.fileobj)
            number, others = int(said[1]), int(said[2])
            if others != count:
                return here, f"process {number} is one of {others}, process 0 one of {count}"
            if number in here:
                return here, f"two processes have --process={number}"
            here.add(number)
    return here, ""


def _go(host: str, port: int, count: int, index: int, end: float) -> None:
    started = time.monotonic()
    reason = ""
    while (left := end - time.monotonic()) > 0:
        try:
            with socket.create_connection((host, port), timeout=left) as connection:
                connection.sendall(f"cmoe {index} of {count}\n".encode())
                # Process 0 may have begun to wait later than this one.
                connection.settimeout(left + end - started)
                answer = _received(connection).decode()
        except OSError as error:
            reason = error.strerror or str(error)
        else:
            if answer == f"{READY}\n":
                return
            if answer:
                raise UserError(answer.strip())
            reason = "it does not answer"
        time.sleep(RETRY_SECONDS)
    raise UserError(
        f"process {index} of {count} did not find process 0 at {host}:{port} within "
        f"{end - started:.3g} s ({reason}): does it run there, and can that port be reached?"
    )


def _received(connection: socket.socket) -> bytes:
    """Return a line, or what came of it."""
    data = b""
    with contextlib.suppress(OSError):
        while not data.endswith(b"\n") and len(data) < LONGEST:
            if not (more := connection.recv(LONGEST)):
                break
            data += more
    return data


def _listed(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:8]))
    return f"{shown} and {len(numbers) - 8} more" if len(numbers) > 8 else shown
