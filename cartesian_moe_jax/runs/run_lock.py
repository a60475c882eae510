"""One process at a time for a run directory: a second would replace what the first writes."""

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.paths import AnyPath, is_remote, reported

LOCK = ".lock"
HELD = (errno.EWOULDBLOCK, errno.EACCES)


class RunInUseError(UserError):
    """Another process works in the run directory."""


@contextlib.contextmanager
def lock_of_run(folder: AnyPath) -> Iterator[None]:
    """Hold the lock of a folder; raises RunInUseError, which names its holder, if another has it.

    The kernel frees it when its holder is killed. Object stores have no locks, nor have some
    network file systems: nothing is held there.
    """
    if is_remote(folder):
        yield
        return
    path = folder / LOCK
    with contextlib.ExitStack() as stack:
        with reported("written", path):
            file = _locked(path, stack)
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        # Before it is freed: one that another process holds must stay.
        stack.callback(path.unlink, missing_ok=True)
        yield


def _locked(path: Path, stack: contextlib.ExitStack) -> BinaryIO:
    while True:
        file = stack.enter_context(path.open("ab+", buffering=0))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in HELD:
                return file  # a file system without locks
            raise RunInUseError(_in_use(path, file)) from None
        # Its last holder may have removed it since it was opened.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file


def _in_use(path: Path, file: BinaryIO) -> str:
    file.seek(0)
    holder = file.read().decode(errors="replace") or "another process"
    return (
        f"--workdir={path.parent} is in use by {holder}: wait for its end or choose another "
        f"--workdir (or, if there is no such process any more, remove {path})"
    )
