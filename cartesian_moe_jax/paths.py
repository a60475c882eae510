"""Paths to local folders and to object stores: to name, write, publish and fetch files."""

import contextlib
import logging
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from etils import epath

from cartesian_moe_jax.errors import UserError

AnyPath = Path | epath.Path
"""What ``as_path`` returns: a local path is pathlib's, one in an object store is epath's."""

PACKAGES = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs"}
"""The object stores, by the scheme of their paths, and the package that reaches each."""

CHUNK_BYTES = 8 * 2**20


def as_path(text: str | os.PathLike[str]) -> AnyPath:
    """Return the path that ``text`` names: ``~`` and local folders, or ``gs://bucket/folder``.

    Raises UserError for a scheme that is not supported, and where no bucket is named.
    """
    name = os.fspath(text)
    scheme, slashes = re.match(r"(?:(\w+):(?=/))?(/*)", name).groups()
    if scheme in PACKAGES and (slashes != "//" or name.endswith("://")):
        # pathlib turns gs://bucket into gs:/bucket, which would be a local folder.
        raise UserError(f"path={name!r} names no bucket: {scheme}://BUCKET/FOLDER is wanted")
    if "://" not in name:
        return Path(name).expanduser()
    if scheme not in PACKAGES:
        schemes = ", ".join(f"{scheme}://" for scheme in PACKAGES)
        raise UserError(f"path={name!r} is not supported: local paths are, and {schemes}")
    _set_up(scheme)
    return epath.Path(name)


def is_remote(path: AnyPath) -> bool:
    """Say whether a path lies in an object store."""
    return "://" in os.fspath(path)


def scheme_of(path: AnyPath) -> str:
    """Return ``gs`` for ``gs://bucket``, and an empty string for a local path."""
    return os.fspath(path).rpartition("://")[0]


def absolute(path: AnyPath) -> AnyPath:
    """Return a path that does not depend on the working folder."""
    return path if is_remote(path) else path.absolute()  # epath's absolute() puts the folder first


def is_file(path: AnyPath) -> bool:
    """Say whether a file, or an object, is there; raises UserError if the store cannot tell."""
    with reported("read", path):
        if not is_remote(path):
            return path.is_file()
        try:
            return not path.stat().is_directory
        except FileNotFoundError:
            return False


def entries(folder: AnyPath) -> list[AnyPath]:
    """List what lies in a folder, sorted; nothing lies in one that is not there."""
    with reported("listed", folder):
        try:
            # An object "folder/" may mark an empty folder; it is listed as folder/folder.
            paths = {p for p in folder.iterdir() if p.name != folder.name or p.exists()}
            return sorted(paths)
        except FileNotFoundError:
            return []


def write_atomically(path: AnyPath, content: str | bytes) -> None:
    """Write a file whole or not at all; a reader sees the old content or the new.

    Raises UserError if it cannot be written.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    with reported("written", path), _writing(path) as stream:
        stream.write(data)


def remove(path: AnyPath) -> None:
    """Remove a file; it may be gone already."""
    with reported("removed", path):
        path.unlink(missing_ok=True)


def make_folder(path: AnyPath) -> None:
    """Make a local folder and those above it; an object store needs none. Raises UserError."""
    if not is_remote(path):
        with reported("made", path):
            path.mkdir(parents=True, exist_ok=True)


def upload(file: Path, target: AnyPath) -> None:
    """Copy a local file to ``target``, over what is there; raises UserError if it cannot be."""
    with reported("written", target), file.open("rb") as source, _writing(target) as stream:
        shutil.copyfileobj(source, stream, CHUNK_BYTES)


def publish(folder: Path, target: AnyPath, last: str) -> None:
    """Copy every file of ``folder`` to ``target``, and the one named ``last`` after all others.

    So who finds ``last`` finds all. Raises UserError if a file cannot be written.
    """
    names = [path.name for path in entries(folder) if path.is_file() and path.name != last]
    make_folder(target)
    for name in [*names, last]:
        upload(folder / name, target / name)


def fetch(source: AnyPath, folder: Path, files: Sequence[tuple[str, int]]) -> None:
    """Copy the named files (name, size in bytes) from ``source`` into a local folder.

    Those that are there in the right size are left alone, so processes may fetch at once.
    Raises UserError if a name could lead out of the folder, or a file is missing or of another
    size.
    """
    for name, _ in files:
        if name in ("", ".", "..") or re.search(r"[/\\\0]", name):
            raise UserError(f"{source} lists a file {name!r}: a plain file name is wanted")
    make_folder(folder)
    for name, size in files:
        file = folder / name
        if not (file.is_file() and file.stat().st_size == size):
            _download(source / name, file, size)


@contextlib.contextmanager
def reported(action: str, path: AnyPath) -> Iterator[None]:
    """Turn what a file system raises into a UserError: ``path`` cannot be ``action``.

    Object stores' packages raise errors of many kinds; of a local path, only OSError is turned.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not is_remote(path) and not isinstance(error, OSError):
            raise
        raise UserError(f"{path} cannot be {action}: {_reason(error, path)}") from error


def _reason(error: Exception, path: AnyPath) -> str:
    if isinstance(error, ImportError):
        package = PACKAGES[scheme_of(path)]
        return f"the package {package} is missing (pip install {package})"
    if isinstance(error, FileNotFoundError) and is_remote(path):
        return "there is no such object, or no such bucket"
    system = None if is_remote(path) else getattr(error, "strerror", None)
    return " ".join((system or str(error) or type(error).__name__).split())


@contextlib.contextmanager
def _writing(path: AnyPath) -> Iterator[BinaryIO]:
    """Open a file that takes the place of ``path`` when it is complete."""
    if is_remote(path):
        # An object appears when its upload ends: a temporary name would only cost a copy.
        with path.open("wb") as stream:
            yield stream
        return
    # The names differ, so that two processes do not write into one file.
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with temporary.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _download(source: AnyPath, file: Path, size: int) -> None:
    with reported("fetched", source), source.open("rb") as remote, _writing(file) as stream:
        shutil.copyfileobj(remote, stream, CHUNK_BYTES)
        if stream.tell() != size:
            raise UserError(
                f"{source} cannot be fetched: it has {stream.tell():,} bytes, not {size:,}"
            )


def _set_up(scheme: str) -> None:
    """Keep a store's package from remembering listings: others, TensorStore among them, write too.

    And from printing what it raises besides.
    """
    import fsspec

    for protocol in {"gs": ("gs", "gcs")}.get(scheme, (scheme,)):
        fsspec.config.conf.setdefault(protocol, {}).setdefault("use_listings_cache", False)
    logging.getLogger(PACKAGES[scheme]).setLevel(logging.CRITICAL)
