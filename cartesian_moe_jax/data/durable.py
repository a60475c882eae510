"""Files and folders that are on disk, whole, or not there."""

import os
from pathlib import Path


def write_durably(path: Path, content: str | bytes) -> None:
    """Write a file and wait until it is on disk."""
    with open(path, "wb") as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put_in_place(folder: Path, target: Path, last: str) -> None:
    """Rename a finished folder, whose file `last` was written after all others."""
    sync_folder(folder)
    try:
        folder.rename(target)
    except OSError:
        # On a shared file system that does not share locks another machine may be first.
        if not (target / last).is_file():
            raise
    sync_folder(target.parent)
