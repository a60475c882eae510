"""Local text as tensorflow-datasets in array_record format, written by a real builder.

Files are read in bundles, several at a time; a bundle becomes one dataset or more, none larger
than DATASET_BYTES, since a builder holds what it writes in memory. A finished bundle is kept:
reading continues after an interruption, and only changed bundles are read again.
"""

import contextlib
import functools
import hashlib
import io
import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cartesian_moe_jax.data.documents import ENDS, GROUP, SPLIT_KEY, Dataset, Document
from cartesian_moe_jax.data.jobs import run_jobs
from cartesian_moe_jax.data.sources.files import InputFile
from cartesian_moe_jax.data.sources.rows import Fields, read_rows
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.paths import as_path, write_atomically

BUNDLE_BYTES = 2**26
"""Of files as they lie on disk, compressed or not."""
DATASET_BYTES = 2**27
REPORT_BYTES = 2**22
FORMAT_VERSION = 1
DONE = "bundle.json"
TEXT, SPLIT = "text", "train"

Report = Callable[[dict[str, Any]], None]


class LocalText(NamedTuple):
    """What reading files gave."""

    datasets: tuple[Dataset, ...]
    broken_lines: int
    first_broken: str
    """What was wrong with the first one; empty if there was none."""


def read_files(
    files: Sequence[InputFile],
    fields: Fields,
    folder: Path,
    *,
    skip_broken: bool,
    workers: int,
    progress: Callable[[int], None],
) -> LocalText:
    """Return the files' documents as prepared datasets below `folder`, reading what is new.

    Args:
        files: in the order of their documents.
        fields: what is read of a JSON line.
        folder: a local folder.
        skip_broken: count broken lines and go on, instead of refusing them.
        workers: processes that read.
        progress: called with the number of bytes read since the last call.

    Raises:
        UserError: a file cannot be read, or a line is broken and not to be skipped.
    """
    settings = {"fields": list(fields), "folder": str(folder), "skip_broken": skip_broken}
    requests = [{"files": [list(f) for f in bundle]} for bundle in _bundles(files)]
    replies = run_jobs(
        "read", settings, requests, workers, lambda report: progress(report["count"])
    )
    with contextlib.closing(replies):
        done = [reply for reply, _ in replies]
    names = [name for bundle in done for name in bundle["datasets"]]
    first_broken = next((b["first_broken"] for b in done if b["first_broken"]), "")
    broken = sum(bundle["broken_lines"] for bundle in done)
    return LocalText(tuple(Dataset(n, rows=SPLIT) for n in names), broken, first_broken)


def _bundles(files: Sequence[InputFile]) -> Iterator[list[InputFile]]:
    """Cut the files into runs of about BUNDLE_BYTES; a larger file is alone."""
    bundle: list[InputFile] = []
    size = 0
    for file in files:
        if bundle and size + file.size > BUNDLE_BYTES:
            yield bundle
            bundle, size = [], 0
        bundle.append(file)
        size += file.size
    if bundle:
        yield bundle


class ReadFiles:
    """The job of reading one bundle of files; see `jobs`."""

    def __init__(self, settings: dict[str, Any]):
        """Take the settings that `read_files` makes."""
        self._fields = Fields(*settings["fields"])
        self._folder = Path(settings["folder"])
        self._skip_broken: bool = settings["skip_broken"]
        self._broken_lines, self._first_broken = 0, ""

    def __call__(
        self, request: dict[str, Any], report: Report
    ) -> tuple[dict[str, Any], list[np.ndarray]]:
        """Return the names of the bundle's datasets and its broken lines; no arrays."""
        key = [FORMAT_VERSION, DATASET_BYTES, self._fields, self._skip_broken, request["files"]]
        digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
        target = self._folder / digest
        files = [InputFile(*file) for file in request["files"]]
        if _is_complete(target):
            report({"count": sum(file.size for file in files)})
        else:
            self._read(files, target, report)
        done = json.loads((target / DONE).read_text(encoding="utf-8"))
        return done | {"datasets": [str(target / name) for name in done["datasets"]]}, []

    def _read(self, files: list[InputFile], target: Path, report: Report) -> None:
        self._broken_lines, self._first_broken = 0, ""
        target.mkdir(parents=True, exist_ok=True)
        try:
            with contextlib.closing(self._rows(files, report)) as rows:
                names = [
                    _write_dataset(part, target / f"part{index:05d}", target)
                    for index, part in enumerate(_parts(rows))
                ]
            done = {
                "datasets": names,
                "broken_lines": self._broken_lines,
                "first_broken": self._first_broken,
            }
            write_atomically(target / DONE, json.dumps(done))
        except Exception:
            shutil.rmtree(target, ignore_errors=True)
            raise

    def _rows(self, files: list[InputFile], report: Report) -> Iterator[Document]:
        for file in files:
            reported = 0
            for document, position in read_rows(as_path(file.path), self._fields, self._on_broken):
                yield document
                if position - reported > REPORT_BYTES:
                    report({"count": position - reported})
                    reported = position
            report({"count": file.size - reported})

    def _on_broken(self, line: str) -> None:
        if not self._skip_broken:
            raise UserError(f"{line}; --config.data.broken_lines=skip counts such lines")
        self._broken_lines += 1
        self._first_broken = self._first_broken or line


def _is_complete(target: Path) -> bool:
    """Tell whether a bundle was read before, and nobody removed a part of it."""
    if not (target / DONE).is_file():
        return False
    names = json.loads((target / DONE).read_text(encoding="utf-8"))["datasets"]
    return all((target / name / "dataset_info.json").is_file() for name in names)


def _parts(rows: Iterator[Document]) -> Iterator[Iterator[Document]]:
    """Cut the rows into iterators of about DATASET_BYTES; each is used up before the next."""
    for first in rows:
        yield _up_to(DATASET_BYTES, itertools.chain([first], rows))


def _up_to(limit: int, rows: Iterator[Document]) -> Iterator[Document]:
    size = 0
    for row in rows:
        yield row
        size += len(row.text)
        if size >= limit:
            return


def _write_dataset(rows: Iterator[Document], data_dir: Path, root: Path) -> str:
    """Write one dataset; return its folder, relative to `root`."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    # Left by a reading that was interrupted: the bundle is read anew.
    shutil.rmtree(data_dir, ignore_errors=True)
    builder = _builder_class()(data_dir=str(data_dir), file_format="array_record")
    builder.rows = rows
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    with contextlib.redirect_stdout(io.StringIO()), _as_os_error():
        builder.download_and_prepare(download_config=config)
    return str(Path(builder.data_path).relative_to(root))


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
    """Raise OSError, with the words of the system, for what the array_record library raises."""
    try:
        yield
    except RuntimeError as error:
        refused = re.search(r"\w+\(\) failed: ([^;]+)", str(error))
        if refused is None:
            raise
        raise OSError(refused[1]) from error


@functools.cache
def _builder_class() -> Any:
    import tensorflow_datasets as tfds

    class LocalTextBuilder(tfds.core.GeneratorBasedBuilder):
        """Documents of local files, in the order in which they were read."""

        VERSION = tfds.core.Version("1.0.0")
        rows: Iterator[Document]

        def _info(self) -> Any:
            text = tfds.features.Text()
            features = {TEXT: text, SPLIT_KEY: text, GROUP: text, ENDS: np.bool_}
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict(features), disable_shuffling=True
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {SPLIT: self._generate_examples()}

        def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
            for number, row in enumerate(self.rows):
                # JSON can hold half a surrogate pair, which is no text.
                text, group = (t.encode("utf-8", errors="replace") for t in (row.text, row.group))
                yield number, {TEXT: text, SPLIT_KEY: row.split_key, GROUP: group, ENDS: row.ends}

    return LocalTextBuilder
