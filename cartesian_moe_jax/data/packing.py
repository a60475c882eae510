"""Packing: documents tokenised once into a folder of flat shards, see `packed` for the format.

The folder appears whole, by a rename, or not at all.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt

from cartesian_moe_jax.data.corpora import Corpus, parse_corpus
from cartesian_moe_jax.data.packed import FORMAT_VERSION, METADATA, PackedCorpus
from cartesian_moe_jax.data.splits import SPLITS, split_documents
from cartesian_moe_jax.data.tokenizers import Tokenizer
from cartesian_moe_jax.errors import UserError

SHARD_TOKENS = 2**26

Progress = Callable[[int, int], None]


def prepare(
    spec: str,
    tokenizer: Tokenizer,
    cache_dir: str | Path,
    validation_share: float = 0.05,
    shard_tokens: int = SHARD_TOKENS,
    progress: Progress | None = None,
) -> PackedCorpus:
    """Return the packed corpus, packing it first unless the cache holds it already.

    Its folder is named by what went in (corpus, its files' sizes and times, tokenizer, share),
    so that changed files are packed anew. Of two processes at once, one waits for the other.

    Args:
        spec: a corpus, as `parse_corpus` reads it.
        tokenizer: turns documents into token ids.
        cache_dir: where packed corpora lie; made if missing.
        validation_share: expected share of the documents that go to validation.
        shard_tokens: most tokens in one shard file.
        progress: called after each document with (documents, bytes of text) so far.

    Raises:
        UserError: the corpus cannot be read, or the cache not be written (then nothing is left).
    """
    if shard_tokens < 1:
        raise UserError(f"shard_tokens={shard_tokens} must be at least 1")
    corpus = parse_corpus(spec)
    header = {
        "format_version": FORMAT_VERSION,
        "corpus": corpus.spec,
        "corpus_fingerprint": corpus.fingerprint(),
        "tokenizer": tokenizer.description(),
        "validation_share": validation_share,
        "shard_tokens": shard_tokens,
    }
    key = hashlib.sha256(json.dumps(header, sort_keys=True).encode("utf-8")).hexdigest()[:16]
    target = Path(cache_dir).expanduser() / f"{corpus.kind}-{key}"
    with _cache_errors(target.parent):
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            with _locked(target):
                if not target.exists():
                    _write_folder(target, header, corpus, tokenizer, progress)
    return PackedCorpus.open(target)


class _SplitWriter:
    """Streams the tokens of one split into shards, and counts and hashes them."""

    def __init__(self, folder: Path, split: str, dtype: np.dtype, shard_tokens: int):
        self.folder, self.split, self.dtype = folder, split, dtype
        self.shard_tokens = shard_tokens
        self.documents = self.num_bytes = self.tokens = 0
        self.content = hashlib.sha256()
        self.shards: list[dict[str, Any]] = []
        self._file: Any = None

    def add_document(self, num_bytes: int, tokens: UInt[np.ndarray, "tokens"]) -> None:
        self.documents += 1
        self.num_bytes += num_bytes
        self.tokens += len(tokens)
        while len(tokens):
            if self._file is None:
                self._open_shard()
            room = self.shard_tokens - self._shard_length
            self._write(tokens[:room])
            tokens = tokens[room:]
            if self._shard_length == self.shard_tokens:
                self.close_shard()

    def facts(self) -> dict[str, Any]:
        counts = {"documents": self.documents, "bytes": self.num_bytes, "tokens": self.tokens}
        return counts | {"shards": self.shards}

    def close_shard(self) -> None:
        if self._file is None:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        size = self._shard_length * self.dtype.itemsize
        shard = {"file": Path(self._file.name).name, "bytes": size}
        self.shards.append(shard | {"sha256": self._shard_hash.hexdigest()})
        self._file = None

    def abandon(self) -> None:
        # On a full disk closing fails as writing did; the file is going to be deleted.
        with contextlib.suppress(OSError):
            if self._file is not None:
                self._file.close()

    def _open_shard(self) -> None:
        name = f"{self.split}-{len(self.shards):05d}.bin"
        # Open across calls; `abandon` closes it when something fails.
        self._file = open(self.folder / name, "wb", buffering=2**20)  # noqa: SIM115
        self._shard_length, self._shard_hash = 0, hashlib.sha256()

    def _write(self, tokens: UInt[np.ndarray, "tokens"]) -> None:
        data = tokens.astype(self.dtype).data
        self._file.write(data)
        self._shard_hash.update(data)
        self.content.update(data)
        self._shard_length += len(tokens)


def _write_folder(
    target: Path,
    header: dict[str, Any],
    corpus: Corpus,
    tokenizer: Tokenizer,
    progress: Progress | None,
) -> None:
    """Pack into a temporary sibling, and rename it once everything is on disk."""
    folder = target.parent / f".{target.name}.tmp"
    if folder.exists():
        # We hold the lock, so whoever wrote this was interrupted.
        shutil.rmtree(folder)
    folder.mkdir()
    try:
        metadata = header | _write_shards(folder, header, corpus, tokenizer, progress)
        _write_durably(folder / METADATA, json.dumps(metadata, indent=1) + "\n")
        _sync_folder(folder)
        try:
            folder.rename(target)
        except OSError:
            # On a shared file system that does not share locks another machine may be first.
            if not target.exists():
                raise
        _sync_folder(target.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_shards(
    folder: Path,
    header: dict[str, Any],
    corpus: Corpus,
    tokenizer: Tokenizer,
    progress: Progress | None,
) -> dict[str, Any]:
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 2**16 else "<u4")
    writers = {s: _SplitWriter(folder, s, dtype, header["shard_tokens"]) for s in SPLITS}
    end = np.array([tokenizer.end_of_text], dtype)
    try:
        for split, document in split_documents(corpus, header["validation_share"]):
            num_bytes = len(document.text.encode("utf-8", errors="replace"))
            tokens = np.concatenate([tokenizer.encode(document.text), end], dtype=dtype)
            writers[split].add_document(num_bytes, tokens)
            if progress is not None:
                totals = [(w.documents, w.num_bytes) for w in writers.values()]
                progress(*map(sum, zip(*totals, strict=True)))
        for writer in writers.values():
            writer.close_shard()
    finally:
        for writer in writers.values():
            writer.abandon()
    digests = [writer.content.hexdigest() for writer in writers.values()]
    content_hash = hashlib.sha256("".join(digests).encode()).hexdigest()
    splits = {split: writer.facts() for split, writer in writers.items()}
    return {"dtype": dtype.str, "content_hash": content_hash, "splits": splits}


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


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Hold the lock of a folder to be; the lock file is removed on release.

    Removing it is safe because a waiter checks that the file it locked is still the one there.
    """
    import fcntl

    path = target.parent / f".{target.name}.lock"
    while True:
        with open(path, "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not (path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())):
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _write_durably(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
