"""Packed corpora, found in the cache or made: local ones, and those that object stores hold."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cartesian_moe_jax.data.durable import put_in_place, write_durably
from cartesian_moe_jax.data.locks import locked
from cartesian_moe_jax.data.pack_settings import PackSettings, local_copies
from cartesian_moe_jax.data.packed import FORMAT_VERSION, METADATA, TOKENIZER, PackedCorpus
from cartesian_moe_jax.data.packing import Packing
from cartesian_moe_jax.data.sources.source import Reading, Source, hash_of
from cartesian_moe_jax.data.tokenizers import Tokenizer
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.paths import AnyPath, as_path, fetch, is_file, is_remote, publish, reported


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
    target = local_copies() / f"remote-{name}"
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
    write_durably(folder / METADATA, metadata)
    put_in_place(folder, target, last=METADATA)


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
