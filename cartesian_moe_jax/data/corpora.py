"""Corpora: where documents come from. A corpus is a value, picked by a spec string.

python_stdlib            the sources of the running Python: nothing to download
text:PATH[,PATH...]      local .txt files, folders (recursive) or globs
tfds:DIRECTORY           a prepared tensorflow-datasets folder in array_record format
"""

import dataclasses
import functools
import glob
import hashlib
import json
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from cartesian_moe_jax.errors import UserError, lookup


@dataclasses.dataclass(frozen=True)
class Document:
    """A text and its name, which is relative to the corpus and decides the split."""

    name: str
    text: str


@runtime_checkable
class Corpus(Protocol):
    """A source of documents that comes back in the same order each time."""

    kind: ClassVar[str]

    @property
    def spec(self) -> str:
        """The spec string that `parse_corpus` turns into this corpus."""

    def fingerprint(self) -> str:
        """Return a hash that changes when the documents do; cheap, no document is read."""

    def documents(self) -> Iterator[Document]:
        """Yield the documents, some of which may be empty."""


def parse_corpus(spec: str) -> Corpus:
    """Make a corpus from a spec string, `KIND` or `KIND:ARGUMENT`.

    Raises:
        UserError: the kind is unknown, or its argument is missing or not wanted.
    """
    kind, _, argument = spec.partition(":")
    return lookup(CORPORA, kind, "data.corpus").from_argument(argument)


@dataclasses.dataclass(frozen=True)
class PythonStdlib:
    """The non-test `.py` sources of the running Python's standard library, about 11 MB.

    It differs between Python builds: numbers on it compare only where its hash is equal.
    """

    kind: ClassVar[str] = "python_stdlib"
    skipped_folders: ClassVar[frozenset[str]] = frozenset(
        {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
        # One generated file of prose, larger than the validation split should be in all.
        | {"pydoc_data"}
    )
    # The settings of one build.
    skipped_prefixes: ClassVar[tuple[str, ...]] = ("config-", "_sysconfigdata")

    @classmethod
    def from_argument(cls, argument: str) -> "PythonStdlib":
        """Make the corpus; it takes no argument."""
        if argument:
            raise UserError(f"corpus 'python_stdlib:{argument}': python_stdlib takes no argument")
        return cls()

    @property
    def spec(self) -> str:
        """`python_stdlib`."""
        return self.kind

    def fingerprint(self) -> str:
        """Return a hash of the Python version and of every file's name and size."""
        sizes = {name: path.stat().st_size for name, path in self._files().items()}
        return _hash_json([sys.version, sizes])

    def documents(self) -> Iterator[Document]:
        """Yield the files in the order of their names; those that do not decode are left out."""
        for name, path in self._files().items():
            try:
                yield Document(name, path.read_bytes().decode("utf-8"))
            except UnicodeDecodeError:
                continue

    def _files(self) -> dict[str, Path]:
        root = Path(sysconfig.get_path("stdlib"))
        files = {}
        for folder, folders, names in os.walk(root):
            folders[:] = [f for f in folders if self._is_wanted(f)]
            paths = [Path(folder, name) for name in names if name.endswith(".py")]
            files |= {p.relative_to(root).as_posix(): p for p in paths if self._is_wanted(p.name)}
        if not files:
            raise UserError(f"corpus 'python_stdlib': no .py sources in {root}")
        return dict(sorted(files.items()))

    def _is_wanted(self, name: str) -> bool:
        return name not in self.skipped_folders and not name.startswith(self.skipped_prefixes)


def read_utf8(path: Path) -> str:
    """Return the text of a UTF-8 file, line ends as they are.

    Raises:
        UserError: the file cannot be read, or is not UTF-8 (the byte offset is named).
    """
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text: bad byte at offset {error.start} ({error.reason})"
        ) from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


# How a local file becomes a text, by the end of its name.
READERS: Mapping[str, Callable[[Path], str]] = {".txt": read_utf8}


@dataclasses.dataclass(frozen=True)
class TextFiles:
    """Local text files, one document each, named relative to the pattern that found them.

    Attributes:
        patterns: files, folders (searched recursively) or globs (`**` is recursive); a file
            found twice counts once.
    """

    patterns: tuple[str, ...]
    kind: ClassVar[str] = "text"

    @classmethod
    def from_argument(cls, argument: str) -> "TextFiles":
        """Make the corpus from patterns separated by commas."""
        patterns = tuple(p.strip() for p in argument.split(",") if p.strip())
        if not patterns:
            raise UserError("corpus 'text:' needs a file, folder or glob, as in text:/data/*.txt")
        return cls(patterns)

    @property
    def spec(self) -> str:
        """`text:PATTERN,PATTERN`."""
        return f"{self.kind}:{','.join(self.patterns)}"

    def fingerprint(self) -> str:
        """Return a hash of the files' paths, names, sizes and modification times."""
        rows = []
        for path, name in self._files.items():
            status = path.stat()
            rows.append([str(path), name, status.st_size, status.st_mtime_ns])
        return _hash_json(rows)

    def documents(self) -> Iterator[Document]:
        """Yield the files, pattern by pattern, each pattern's in the order of their paths."""
        for path, name in self._files.items():
            yield Document(name, READERS[path.suffix.lower()](path))

    @functools.cached_property
    def _files(self) -> dict[Path, str]:
        files: dict[Path, str] = {}
        for pattern in self.patterns:
            for path, name in _find(pattern).items():
                files.setdefault(path, name)
        return files


def _find(pattern: str) -> dict[Path, str]:
    """Return the readable files of a pattern, with names relative to its fixed folder."""
    base, paths = _expand(os.path.expanduser(pattern))
    found = sorted(p for p in paths if p.is_file() and p.suffix.lower() in READERS)
    if not found:
        kinds = ", ".join(READERS)
        raise UserError(f"corpus pattern {pattern!r}: no files found (files must end in {kinds})")
    return {p.resolve(): p.relative_to(base).as_posix() for p in found}


def _expand(pattern: str) -> tuple[Path, list[Path]]:
    path = Path(pattern)
    if path.is_dir():
        return path, list(path.rglob("*"))
    if path.exists():
        return path.parent, [path]
    fixed = path
    while glob.has_magic(str(fixed)):
        fixed = fixed.parent
    # A pattern without wildcards that does not exist finds nothing, whatever its base.
    return fixed, [Path(found) for found in glob.glob(pattern, recursive=True)]


@dataclasses.dataclass(frozen=True)
class PreparedTfds:
    """A prepared tensorflow-datasets folder in array_record format, read without TensorFlow.

    Attributes:
        directory: the folder of one version, the one with `dataset_info.json`.
        source_split: the dataset's own split, or a split expression, to read.
        text_field: the feature that holds the text.
    """

    directory: str
    source_split: str = "train"
    text_field: str = "text"
    kind: ClassVar[str] = "tfds"

    @classmethod
    def from_argument(cls, argument: str) -> "PreparedTfds":
        """Make the corpus from its folder."""
        if not argument:
            raise UserError("corpus 'tfds:' needs the folder of a prepared dataset, as tfds:/data")
        return cls(os.path.expanduser(argument))

    @property
    def spec(self) -> str:
        """`tfds:DIRECTORY`."""
        return f"{self.kind}:{self.directory}"

    def fingerprint(self) -> str:
        """Return a hash of the folder's files (names, sizes, times) and of what is read."""
        self._builder()
        rows = []
        for path in sorted(Path(self.directory).iterdir()):
            status = path.stat()
            rows.append([path.name, status.st_size, status.st_mtime_ns])
        return _hash_json([str(Path(self.directory).resolve()), dataclasses.astuple(self), rows])

    def documents(self) -> Iterator[Document]:
        """Yield the rows in order, named `SPLIT/INDEX`."""
        source = self._builder().as_data_source(self.source_split)
        for index in range(len(source)):
            text = source[index][self.text_field]
            text = text.decode("utf-8", errors="replace") if isinstance(text, bytes) else text
            yield Document(f"{self.source_split}/{index}", str(text))

    def _builder(self) -> Any:
        """Open the dataset and check that this machine can read what is asked of it."""
        if not Path(self.directory, "dataset_info.json").is_file():
            raise UserError(f"corpus {self.spec!r}: no dataset_info.json in that folder")
        try:
            import tensorflow_datasets as tfds
        except ImportError:
            message = "needs the package tensorflow-datasets (pip install tensorflow-datasets)"
            raise UserError(f"corpus {self.spec!r} {message}") from None

        builder = tfds.builder_from_directory(self.directory)
        file_format = builder.info.file_format.value
        if file_format != "array_record":
            raise UserError(f"corpus {self.spec!r} is {file_format}; it must be array_record")
        own_split = self.source_split.partition("[")[0]
        _require(self.spec, "split", own_split, list(builder.info.splits))
        _require(self.spec, "text field", self.text_field, list(builder.info.features))
        return builder


def _require(spec: str, what: str, value: str, present: list[str]) -> None:
    if value not in present:
        raise UserError(f"corpus {spec!r} has no {what} {value!r}; present: {', '.join(present)}")


def _hash_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("utf-8")).hexdigest()


CORPORA: Mapping[str, Any] = {
    corpus.kind: corpus for corpus in (PythonStdlib, TextFiles, PreparedTfds)
}
