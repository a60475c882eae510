"""Corpora and packed tokens in the stand-in store, for tests: a pytest plugin, and helpers."""

import gzip
import json

import pytest
from backports import zstd

from cartesian_moe_jax.data import ByteTokenizer, PackSettings, pack, packing, parse_source
from cartesian_moe_jax.paths import as_path, publish
from tests.packing import pack_texts

BOOKS, CACHE, PLACE = "gs://bucket/books", "gs://bucket/packed", "gs://bucket/shared/mine"


def json_lines(name, count=30):
    rows = ({"text": f"{name} {i}: naïve 日本\n" * (i + 1)} for i in range(count))
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


FILES = {
    "a.jsonl.zst": zstd.compress(json_lines("a")),
    "b.jsonl.zst": zstd.compress(json_lines("b")),
    "d.txt": b"plain text\n" * 50,
    "deep/c.txt.gz": gzip.compress(b"deep text\n" * 70),
    "deep/cover.png": b"\x89PNG",
}


@pytest.fixture
def books(tmp_path, object_store):
    """The same files on the disk and in the store; returns the folder on the disk."""
    for name, content in FILES.items():
        file = tmp_path / "books" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        object_store.put(f"bucket/books/{name}", content)
    object_store.put("bucket/books/empty/", b"")  # as consoles mark a folder
    return tmp_path / "books"


@pytest.fixture(autouse=True)
def on_machine(tmp_path, monkeypatch):
    """Makes this process one on another machine, which has a local cache of its own."""

    def switch(name):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "machines" / name))

    switch("first")
    return switch


@pytest.fixture
def packings(monkeypatch):
    """The folders that were packed, not fetched."""
    run, folders = packing.Packing.run, []

    def noted(self, *arguments):
        folders.append(self._target)
        run(self, *arguments)

    monkeypatch.setattr(packing.Packing, "run", noted)
    return folders


def pack_remotely(spec=f"text:{BOOKS}"):
    return pack(parse_source(spec), ByteTokenizer(), PackSettings(CACHE, shard_tokens=1000))


def tokens_of(packed):
    return {s: packed.split(s).read(0, 10**9).tolist() for s in ("train", "validation")}


def files_on_machines(tmp_path):
    """What lies on any disk."""
    files = (file for file in tmp_path.rglob("*") if file.is_file())
    return sorted(f for f in files if not f.is_relative_to(tmp_path / "object-store"))


def stopped(object_store, monkeypatch, name):
    """Let the upload of objects with a name break off: what was sent of one is there."""
    put = object_store.put

    def broken(target, content):
        if not target.endswith(name):
            return put(target, content)
        if name != "metadata.json":
            put(target, content[: len(content) // 2])
        raise TimeoutError("the store does not answer")

    monkeypatch.setattr(object_store, "put", broken)


def shared(tmp_path, content="first"):
    """Publish packed tokens at PLACE; equally long contents give equally long shards."""
    packed = pack_texts(tmp_path / content, {"a.txt": f"{content} text\n" * 500})
    publish(packed.directory, as_path(PLACE), last="metadata.json")
    return packed


def change_metadata(object_store, folder, change):
    name = f"{folder.removeprefix('gs://')}/metadata.json"
    metadata = json.loads(object_store.objects()[name])
    change(metadata)
    object_store.put(name, json.dumps(metadata).encode())
