"""Which local (or remote) files a corpus is made of, and what tells that they have changed."""

import functools
import glob
import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cartesian_moe_jax.data.sources.compressed import DECOMPRESSORS
from cartesian_moe_jax.data.sources.rows import READERS, file_kind
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.paths import as_path, is_remote, reported


class InputFile(NamedTuple):
    """One file; another size or time makes it another file."""

    path: str
    size: int
    time: int


def find_files(patterns: tuple[str, ...]) -> list[InputFile]:
    """Return the readable files of the patterns: files, folders (with all below them), or globs.

    Pattern by pattern, each one's in the order of their paths; a file found twice counts once.

    Raises:
        UserError: a pattern finds none.
    """
    found: dict[str, InputFile] = {}
    for pattern in patterns:
        files = sorted(str(p) for p in _expand(pattern) if file_kind(p.name)[0] in _PLAIN)
        if not files:
            raise UserError(
                f"corpus pattern {pattern!r}: no files found (files must end in "
                f"{', '.join(_PLAIN)}, or with {', '.join(filter(None, DECOMPRESSORS))} behind it)"
            )
        for path in files:
            # A link may have the name that tells the kind, and its target not.
            found.setdefault(
                path if is_remote(as_path(path)) else os.path.realpath(path), _input_file(path)
            )
    return list(found.values())


_PLAIN = tuple(kind for kind in READERS if kind != ".py")
"""Sources of programs are text, but a folder of text may lie among them."""


def _input_file(path: str) -> InputFile:
    with reported("read", as_path(path)):
        if is_remote(as_path(path)):
            status = as_path(path).stat()
            return InputFile(path, status.length, status.mtime)
        status = os.stat(path)
        return InputFile(path, status.st_size, status.st_mtime_ns)


def _expand(pattern: str) -> Iterator[Any]:
    with reported("read", as_path(pattern)):
        yield from (
            _expand_remote(pattern) if is_remote(as_path(pattern)) else _expand_local(pattern)
        )


def _expand_local(pattern: str) -> Iterator[Path]:
    path = Path(pattern).expanduser()
    if path.is_dir():
        found = path.rglob("*")
    else:
        found = map(Path, glob.glob(str(path), recursive=True)) if not path.exists() else [path]
    yield from (Path(os.path.abspath(p)) for p in found if p.is_file())


def _expand_remote(pattern: str) -> Iterator[Any]:
    path = as_path(pattern)
    try:
        is_folder = path.stat().is_directory  # exists() and is_dir() pass over what stat() raises
    except FileNotFoundError:
        if glob.has_magic(pattern):
            yield from path.parent.glob(path.name)
        return
    if is_folder:
        yield from _below(path)
    else:
        yield path


def _below(folder: Any) -> Iterator[Any]:
    """Yield the files below a remote folder.

    Folder by folder: walk() passes over folders below the first that cannot be listed.
    """

    def fail(error: OSError) -> None:
        raise error

    _, folders, names = next(folder.walk(on_error=fail))
    yield from (folder / name for name in names if name)  # an object "folder/" has none
    for name in folders:
        yield from _below(folder / name)


SKIPPED_FOLDERS = frozenset(
    {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
    # One generated file of prose, larger than the validation split should be in all.
    | {"pydoc_data"}
)
# The settings of one build.
SKIPPED_PREFIXES = ("config-", "_sysconfigdata")


@functools.cache
def stdlib_files() -> tuple[InputFile, ...]:
    """Return the non-test sources of the running Python's standard library, about 11 MB.

    They differ between Python builds: numbers on them compare only where the data hash is equal.
    Files that are not UTF-8 are left out.
    """
    root, files = Path(sysconfig.get_path("stdlib")), []
    for folder, folders, names in os.walk(root):
        folders[:] = [f for f in folders if _is_wanted(f)]
        paths = [Path(folder, name) for name in names if name.endswith(".py") and _is_wanted(name)]
        files += [path for path in paths if _is_utf8(path)]
    if not files:
        raise UserError(f"corpus 'python_stdlib': no .py sources in {root} of {sys.executable}")
    return tuple(_input_file(str(path)) for path in sorted(files))


def _is_wanted(name: str) -> bool:
    return name not in SKIPPED_FOLDERS and not name.startswith(SKIPPED_PREFIXES)


def _is_utf8(path: Path) -> bool:
    try:
        path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
