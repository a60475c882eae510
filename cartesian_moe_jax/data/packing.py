"""Packing: documents tokenised once into a folder of flat shards, see `packed` for the format.

The folder appears whole, by a rename, or not at all. Packing that was interrupted (Ctrl-C, a
kill) goes on where its journal says; packing that failed leaves nothing.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cartesian_moe_jax.cache import cache_folder
from cartesian_moe_jax.config import DataConfig
from cartesian_moe_jax.data.documents import Documents
from cartesian_moe_jax.data.jobs import run_jobs
from cartesian_moe_jax.data.locks import locked
from cartesian_moe_jax.data.packed import FORMAT_VERSION, METADATA, TOKENIZER, PackedCorpus
from cartesian_moe_jax.data.progress import StageBar
from cartesian_moe_jax.data.shards import ShardWriter
from cartesian_moe_jax.data.sources.source import Found, Reading, Source, hash_of, undivided
from cartesian_moe_jax.data.splits import SPLITS, SplitRule, choose_rule
from cartesian_moe_jax.data.tokenizers import Tokenizer, tokenizer_label
from cartesian_moe_jax.data.tokenizing import Counts
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.paths import AnyPath, as_path, fetch, is_file, is_remote, publish, reported

SHARD_TOKENS = 2**26
JOB_BYTES = 2**23
"""Text that a worker tokenises at once."""
JOURNAL, JOURNAL_SECONDS = "journal.json", 5.0
MAX_STREAMS = 2000
DOCUMENTS = "documents"


class PackSettings(NamedTuple):
    """How a source is packed."""

    cache_dir: str
    """Where packed tokens lie, also remote (gs://...); they are read through a local copy."""
    validation_share: float = 0.05
    """Expected share of the documents that a hash sends to validation."""
    skip_broken: bool = False
    """Broken lines are counted, not refused."""
    tfds_dir: str = ""
    workers: int = 1
    show: bool = False
    """Show progress bars on standard error."""
    shard_tokens: int = SHARD_TOKENS
    """Most tokens in one shard file."""

    @property
    def local_cache(self) -> Path:
        """The local folder that packed tokens are read from."""
        folder = as_path(self.cache_dir)
        return _copies() if is_remote(folder) else folder.absolute()

    def reading(self) -> Reading:
        """Return how sources are read."""
        return Reading(
            folder=self.local_cache / DOCUMENTS,
            tfds_dir=self.tfds_dir,
            skip_broken=self.skip_broken,
            workers=self.workers,
        )


def settings_of(data: DataConfig, cache_dir: str, *, show: bool = False) -> PackSettings:
    """Return the settings that a config asks for."""
    return PackSettings(
        cache_dir,
        validation_share=data.validation_share,
        skip_broken=data.broken_lines == "skip",
        tfds_dir=data.tfds_dir,
        workers=data.workers or os.cpu_count() or 1,
        show=show,
    )


def pack(
    source: Source, tokenizer: Tokenizer, settings: PackSettings, split: str = ""
) -> PackedCorpus:
    """Return a source's packed tokens, packing them first unless the cache holds them already.

    The folder is named by what went in (the source, its files' sizes and times, tokenizer, share),
    so that changed files are packed anew. Of two processes at once, one waits for the other.

    Args:
        source: where the documents come from.
        tokenizer: turns documents into token ids.
        settings: where and how.
        split: all documents go to this split; empty: train and validation, see `Source.find`.

    Raises:
        UserError: the source cannot be read, or the cache not be written (then nothing is left).
    """
    local = settings.local_cache
    with _cache_errors(local):
        local.mkdir(parents=True, exist_ok=True)
        reading = settings.reading()
        header = _header(source, tokenizer, settings, split, reading)
        target = local / f"{source.kind}-{hash_of(header)[:16]}"
        remote = as_path(settings.cache_dir) / target.name
        if not (target / METADATA).is_file():
            with locked(target):
                if is_remote(remote) and is_file(remote / METADATA):
                    fetch_packed(remote, target, _read_metadata(remote))
                elif not (target / METADATA).is_file():
                    Packing(target, header, tokenizer, settings).run(source, reading, split)
        if is_remote(remote) and not is_file(remote / METADATA):
            publish(target, remote, last=METADATA)
    return PackedCorpus.open(target)


def open_anywhere(place: str) -> PackedCorpus:
    """Open a folder of packed tokens; of a remote one, a local copy."""
    path = as_path(place)
    if not is_remote(path):
        return PackedCorpus.open(path)
    if not is_file(path / METADATA):
        raise UserError(f"{place} is no packed corpus: it has no {METADATA}")
    metadata = _read_metadata(path)
    # Other tokens may take the place of these.
    name = hashlib.sha256(f"{place}\0".encode() + metadata).hexdigest()[:16]
    target = _copies() / f"remote-{name}"
    with _cache_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target):
            fetch_packed(path, target, metadata)
    return PackedCorpus.open(target)


def fetch_packed(remote: AnyPath, target: Path, metadata: bytes) -> None:
    """Copy packed tokens from a remote folder, of which the content of `metadata.json` is given.

    The local folder appears when it is complete; what broke off is continued. The caller holds
    its lock. Raises UserError if the tokens are not those that the metadata tells of.
    """
    if (target / METADATA).is_file():
        return
    digests, sizes = _files_of(remote, metadata)
    folder = target.parent / f".{target.name}.fetched"
    fetch(remote, folder, list(sizes.items()))
    for name, digest in digests.items():
        with (folder / name).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != digest:
            (folder / name).unlink()
            raise UserError(
                f"{remote / name} is damaged, or was replaced while it was fetched: "
                f"its sha256 is {found}, not {digest}"
            )
    _write_durably(folder / METADATA, metadata)
    _put_in_place(folder, target)


def _read_metadata(remote: AnyPath) -> bytes:
    with reported("read", remote / METADATA):
        return (remote / METADATA).read_bytes()


def _files_of(remote: AnyPath, metadata: bytes) -> tuple[dict[str, str], dict[str, int]]:
    """Return the sha256 of each shard, and the sizes of these and of the tokenizer."""
    try:
        values = json.loads(metadata)
        shards = [s for stream in values["splits"].values() for s in stream["shards"]]
        digests = {shard["file"]: shard["sha256"] for shard in shards}
        sizes = {shard["file"]: shard["bytes"] for shard in shards}
        sizes[TOKENIZER] = values["tokenizer_bytes"]
        types = [(str, [*digests, *digests.values()]), (int, sizes.values())]
        if not all(isinstance(value, kind) for kind, found in types for value in found):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{remote} is no packed corpus: {METADATA} is unreadable") from None
    return digests, sizes


def _copies() -> Path:
    """Return the local folder for copies of what lies in an object store."""
    folder = cache_folder("", "data")
    if is_remote(folder):
        raise UserError(
            f"XDG_CACHE_HOME leads to {folder}: tokens in an object store are read through "
            "copies in a local folder"
        )
    return folder.absolute()


def _header(
    source: Source,
    tokenizer: Tokenizer,
    settings: PackSettings,
    split: str,
    reading: Reading,
) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "fingerprint": hash_of([source.kind, source.fingerprint(reading)]),
        "tokenizer": tokenizer.identity(),
        "split": split,
        "validation_share": settings.validation_share,
        "shard_tokens": settings.shard_tokens,
    }


class Packing:
    """One packing into a temporary sibling of `target`, renamed once everything is on disk."""

    def __init__(
        self,
        target: Path,
        header: dict[str, Any],
        tokenizer: Tokenizer,
        settings: PackSettings,
    ):
        if settings.shard_tokens < 1:
            raise UserError(f"shard_tokens={settings.shard_tokens} must be at least 1")
        self._target, self._header = target, header
        self._tokenizer, self._settings = tokenizer, settings
        self._folder = target.parent / f".{target.name}.tmp"
        self._dtype = np.dtype("<u2" if tokenizer.vocab_size <= 2**16 else "<u4")
        self._writers: dict[str, ShardWriter] = {}
        self._next, self._seconds = 0, 0.0

    def run(self, source: Source, reading: Reading, split: str) -> None:
        """Pack the documents of a source."""
        started = time.monotonic()
        if self._settings.show:
            label = tokenizer_label(self._tokenizer.identity())
            print(f"preparing {undivided(source)} with {label}", file=sys.stderr)
        self._folder.mkdir(exist_ok=True)
        try:
            found = self._find(source, reading, split)
            self._continue()
            started -= self._seconds
            self._write(found.documents, split, lambda: time.monotonic() - started)
            self._finish(undivided(source), found, time.monotonic() - started)
        except Exception:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        finally:
            for writer in self._writers.values():
                writer.abandon()

    def _find(self, source: Source, reading: Reading, split: str) -> Found:
        reading.folder.parent.mkdir(parents=True, exist_ok=True)
        with (
            locked(reading.folder),
            StageBar("reading   ", source.size(), "B", show=self._settings.show) as bar,
        ):
            return source.find(reading._replace(progress=bar.advance), split)

    def _continue(self) -> None:
        """Take up what a packing that was interrupted left."""
        with contextlib.suppress(OSError, ValueError, KeyError):
            journal = json.loads((self._folder / JOURNAL).read_text(encoding="utf-8"))
            for name, state in journal["streams"].items():
                self._writer(name, state)
            self._next, self._seconds = journal["next"], journal["seconds"]
            return
        self._writers, self._next = {}, 0

    def _writer(self, stream: str, state: dict[str, Any] | None = None) -> ShardWriter:
        if stream not in self._writers:
            if len(self._writers) == MAX_STREAMS:
                raise UserError(
                    f"where= divides the corpus by a field with more than {MAX_STREAMS // 2:,} "
                    f"values, such as {stream.partition('/')[2]!r}: it is meant for domains"
                )
            prefix, _, group = stream.partition("/")
            prefix += f"-group{len(self._writers):04d}" if group else ""
            size = self._settings.shard_tokens * self._dtype.itemsize
            self._writers[stream] = ShardWriter(self._folder, prefix, size, state)
        return self._writers[stream]

    def _write(self, documents: Documents, split: str, seconds: Callable[[], float]) -> None:
        share = self._settings.validation_share
        rule = SplitRule(share) if split else choose_rule(documents, share)
        if not documents.group_field:
            for name in [split] if split else SPLITS:
                self._writer(name)
        last = seconds()
        with StageBar("tokenising", len(documents), "rows", show=self._settings.show) as bar:
            bar.advance(self._next)
            for request, counts, arrays in self._tokenized(documents, rule):
                for (name, count), tokens in zip(counts.items(), arrays, strict=True):
                    self._writer(name).add(Counts(*count), tokens)
                bar.advance(request["stop"] - self._next)
                self._next = request["stop"]
                if seconds() - last > JOURNAL_SECONDS:
                    last = seconds()
                    self._write_journal(last)

    def _tokenized(self, documents: Documents, rule: SplitRule) -> Iterator[tuple]:
        settings = {
            "documents": documents.to_json(),
            "rule": list(rule),
            "tokenizer": self._tokenizer.description(),
            "dtype": self._dtype.str,
        }
        rows = len(documents)
        step = int(min(max(JOB_BYTES / max(documents.bytes_per_row(), 1), 1), 2**16))
        requests = [
            {"start": start, "stop": min(start + step, rows)}
            for start in range(self._next, rows, step)
        ]
        replies = run_jobs("tokenize", settings, requests, self._settings.workers)
        for request, (reply, arrays) in zip(requests, replies, strict=True):
            yield request, reply["counts"], arrays

    def _write_journal(self, seconds: float) -> None:
        streams = {name: writer.state() for name, writer in self._writers.items()}
        journal = {"next": self._next, "seconds": seconds, "streams": streams}
        partial = self._folder / f"{JOURNAL}.partial"
        _write_durably(partial, json.dumps(journal))
        partial.replace(self._folder / JOURNAL)

    def _finish(self, spec: str, found: Found, seconds: float) -> None:
        splits = {name: writer.finish() for name, writer in self._writers.items()}
        digests = {n: [s["sha256"] for s in facts["shards"]] for n, facts in splits.items()}
        description = json.dumps(self._tokenizer.description())
        metadata = self._header | {
            "corpus": spec,
            "dtype": self._dtype.str,
            "content_hash": hash_of(digests),
            "broken_lines": found.broken_lines,
            "first_broken": found.first_broken,
            "seconds": seconds,
            "tokenizer_bytes": len(description.encode("utf-8")),
            "splits": splits,
        }
        (self._folder / JOURNAL).unlink(missing_ok=True)
        _write_durably(self._folder / TOKENIZER, description)
        _write_durably(self._folder / METADATA, json.dumps(metadata, indent=1) + "\n")
        _sync_folder(self._folder)
        _put_in_place(self._folder, self._target)


@contextlib.contextmanager
def _cache_errors(cache_dir: Path) -> Iterator[None]:
    """Turn what the file system refuses into one line; corpora report their own reading."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write packed data to cache_dir={cache_dir}: {error.strerror or error}; "
            "it must be a writable folder with enough free space"
        ) from None


def _put_in_place(folder: Path, target: Path) -> None:
    try:
        folder.rename(target)
    except OSError:
        # On a shared file system that does not share locks another machine may be first.
        if not (target / METADATA).is_file():
            raise
    _sync_folder(target.parent)


def _write_durably(path: Path, content: str | bytes) -> None:
    with open(path, "wb") as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
