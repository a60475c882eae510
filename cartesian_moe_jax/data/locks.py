"""One process at a time for a folder that several may want to make."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(target: Path) -> Iterator[None]:
    """Hold the lock of a folder to be; the lock file is removed on release.

    Removing it is safe because a waiter checks that the file it locked is still the one there.
    """
    path = target.parent / f".{target.name}.lock"
    while True:
        with open(path, "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                there = path.stat()
            except FileNotFoundError:
                continue
            if not os.path.samestat(os.fstat(file.fileno()), there):
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return
