"""Corpora, packed tokens and tokenizers in an object store: the same as on a disk."""

import os

import pytest

from cartesian_moe_jax.data.packed_cache import open_anywhere
from cartesian_moe_jax.data.tokenizers import resolve_tokenizer
from tests.messages import message_of
from tests.packing import pack_spec
from tests.remote_data import (
    BOOKS,
    PLACE,
    pack_remotely,
    shared,
    stopped,
    tokens_of,
)
from tests.tokenizer_files import bpe_file, sentencepiece_file

pytest_plugins = ["tests.stand_in_store", "tests.remote_data"]


@pytest.mark.parametrize(
    "places",
    [
        "*.jsonl.zst",
        "",
        "deep",
        "deep/c.txt.gz",
        "*/*.txt.*",
        "?.txt",
        "d.txt,deep/c.txt.gz,[ab].jsonl.*",
    ],
)
def test_remote_files_pack_to_the_tokens_of_local_ones(books, tmp_path, object_store, places):
    here, there = (
        pack_spec(tmp_path / name, "text:" + ",".join(f"{root}/{p}" for p in places.split(",")))
        for name, root in (("here", books), ("there", BOOKS))
    )
    assert here.metadata["splits"] == there.metadata["splits"]
    assert tokens_of(here) == tokens_of(there)
    assert object_store.renamed == []


def test_each_pattern_finds_other_files(books, tmp_path):
    patterns = ["*.jsonl.zst", "", "deep", "?.txt"]
    packed = {p: pack_spec(tmp_path / "cache", f"text:{BOOKS}/{p}").content_hash for p in patterns}
    assert len(set(packed.values())) == len(patterns)


def test_changed_objects_are_packed_anew(books, tmp_path, object_store):
    def packed():
        return pack_spec(tmp_path, f"text:{BOOKS}/*.txt")

    first, name = packed(), "bucket/books/d.txt"
    object_store.read.clear()
    assert packed().directory == first.directory
    assert object_store.read == []
    os.utime(object_store.file(name), (0, 0))
    touched = packed()
    assert touched.directory != first.directory
    assert touched.content_hash == first.content_hash
    object_store.put(name, b"other text\n" * 51)
    os.utime(object_store.file(name), (0, 0))
    assert packed().content_hash != first.content_hash
    object_store.put("bucket/books/e.txt", b"one more\n")
    assert packed().split("train").documents == 2


@pytest.mark.parametrize("place", ["nothing", "nothing/*.txt", "*.txt.xz", "deep/cover.png"])
def test_remote_patterns_that_find_nothing_are_named(books, tmp_path, place):
    message = message_of(pack_spec, tmp_path, f"text:{BOOKS}/{place}")
    assert f"{BOOKS}/{place}" in message and "no files found" in message


def test_a_recursive_remote_glob_is_refused_in_one_line(books, tmp_path):
    message = message_of(pack_spec, tmp_path, f"text:{BOOKS}/**/*.txt")
    assert f"{BOOKS}/**/*.txt" in message and "`**`" in message


def test_packed_tokens_are_published_and_their_metadata_last(books, object_store):
    object_store.written.clear()
    packed = pack_remotely()
    names = sorted(file.name for file in packed.directory.iterdir())
    prefix = f"bucket/packed/{packed.directory.name}/"
    assert sorted(object_store.written) == [prefix + name for name in names]
    assert object_store.written[-1] == f"{prefix}metadata.json"
    objects = object_store.objects()
    for name in names:
        assert objects[prefix + name] == (packed.directory / name).read_bytes()
    assert sum(name.endswith(".bin") for name in names) > 3
    assert object_store.renamed == []


def test_another_machine_fetches_what_one_has_packed(books, object_store, packings, on_machine):
    first = pack_remotely()
    object_store.written.clear()
    on_machine("second")
    second = pack_remotely()
    assert packings == [first.directory]
    assert second.directory != first.directory
    assert second.content_hash == first.content_hash
    assert tokens_of(second) == tokens_of(first)
    assert second.tokenizer == first.tokenizer
    object_store.read.clear()
    assert pack_remotely().directory == second.directory
    assert (object_store.read, object_store.written) == ([], [])


@pytest.mark.parametrize("name", ["train-00001.bin", "metadata.json"])
@pytest.mark.parametrize("machine", ["first", "second"])
def test_an_upload_that_broke_off_is_not_taken_for_complete(
    books, object_store, packings, on_machine, name, machine
):
    with pytest.MonkeyPatch.context() as patch:
        stopped(object_store, patch, name)
        assert name in message_of(pack_remotely)
    assert not [o for o in object_store.objects() if o.endswith("metadata.json")]
    on_machine(machine)
    packed = pack_remotely()
    assert len(packings) == (1 if machine == "first" else 2)
    on_machine("third")
    fetched = pack_remotely()
    assert len(packings) == (1 if machine == "first" else 2)
    assert tokens_of(fetched) == tokens_of(packed)


def breaking_off(object_store, monkeypatch, name):
    """Let reading objects with a name fail, as when a connection is lost."""
    open_ = object_store.file_system._open

    def broken(self, path, mode="rb", **options):
        if mode == "rb" and path.endswith(name):
            raise ConnectionError("lost")
        return open_(self, path, mode, **options)

    monkeypatch.setattr(object_store.file_system, "_open", broken)


def test_a_download_that_broke_off_is_continued(books, object_store, packings, on_machine):
    first = pack_remotely()
    on_machine("second")
    with pytest.MonkeyPatch.context() as patch:
        breaking_off(object_store, patch, "train-00002.bin")
        assert "train-00002.bin" in message_of(pack_remotely)
    object_store.read.clear()
    assert tokens_of(pack_remotely()) == tokens_of(first)
    read = [name.rpartition("/")[2] for name in object_store.read]
    assert "train-00002.bin" in read and "train-00000.bin" not in read
    assert packings == [first.directory]


def test_what_broke_off_and_is_gone_from_the_store_is_packed(
    books, object_store, packings, on_machine
):
    first = pack_remotely()
    on_machine("second")
    with pytest.MonkeyPatch.context() as patch:
        breaking_off(object_store, patch, "train-00002.bin")
        message_of(pack_remotely)
    for name in object_store.objects():
        if name.startswith("bucket/packed/"):
            object_store.file(name).unlink()
    second = pack_remotely()
    assert packings == [first.directory, second.directory]
    assert tokens_of(second) == tokens_of(first)


@pytest.mark.parametrize("make", [bpe_file, sentencepiece_file])
def test_a_tokenizer_may_lie_in_the_store(books, object_store, tmp_path, make):
    file = make(tmp_path)
    object_store.put(f"bucket/tokenizers/{file.name}", file.read_bytes())
    local = resolve_tokenizer(str(file))
    for setting in (f"gs://bucket/tokenizers/{file.name}", "gs://bucket/tokenizers"):
        assert resolve_tokenizer(setting) == local
    there = resolve_tokenizer("gs://bucket/tokenizers")
    packed = [pack_spec(tmp_path / n, f"text:{books}", t) for n, t in (("a", local), ("b", there))]
    assert packed[0].directory.name == packed[1].directory.name
    assert tokens_of(packed[0]) == tokens_of(packed[1])


def test_a_tokenizer_that_is_not_in_the_store_is_named(object_store):
    assert "'gs://bucket/tokenizer.json'" in message_of(
        resolve_tokenizer, "gs://bucket/tokenizer.json"
    )
    object_store.put("bucket/tokenizer.json", b'{"model": ')
    assert "gs://bucket/tokenizer.json is damaged JSON" in message_of(
        resolve_tokenizer, "gs://bucket/tokenizer.json"
    )


FAILURES = [
    (PermissionError("Forbidden: b/o\nno access"), "Forbidden: b/o no access"),
    (ConnectionError("Cannot connect to host"), "Cannot connect to host"),
    (RuntimeError("credentials\nexpired"), "credentials expired"),
]
CALLS = {
    "file": lambda tmp_path: pack_spec(tmp_path, f"text:{BOOKS}/d.txt"),
    "folder": lambda tmp_path: pack_spec(tmp_path, f"text:{BOOKS}"),
    "glob": lambda tmp_path: pack_spec(tmp_path, f"text:{BOOKS}/*.jsonl.zst"),
    "cache": lambda tmp_path: pack_remotely(f"text:{tmp_path / 'books'}"),
    "packed": lambda tmp_path: open_anywhere(PLACE),
    "tokenizer": lambda tmp_path: resolve_tokenizer("gs://bucket/tokenizer.json"),
}


@pytest.mark.parametrize("failure, words", FAILURES)
@pytest.mark.parametrize("call", CALLS)
def test_a_store_out_of_reach_is_one_line(books, object_store, tmp_path, call, failure, words):
    object_store.failure = failure
    message = message_of(CALLS[call], tmp_path)
    assert "gs://bucket/" in message and words in message
    assert "no files found" not in message


@pytest.mark.parametrize("failure, words", FAILURES)
@pytest.mark.parametrize(
    "call, method", [("folder", "ls"), ("glob", "ls"), *((call, "_open") for call in CALLS)]
)
def test_a_store_that_fails_on_the_way_is_one_line(
    books, object_store, tmp_path, monkeypatch, call, method, failure, words
):
    shared(tmp_path)
    object_store.put("bucket/tokenizer.json", bpe_file(tmp_path).read_bytes())

    def fail(self, path, *arguments, **options):
        raise failure

    monkeypatch.setattr(object_store.file_system, method, fail)
    message = message_of(CALLS[call], tmp_path)
    assert "gs://bucket/" in message and words in message
    assert "no files found" not in message


def test_a_folder_of_which_a_part_cannot_be_listed_is_refused(
    books, object_store, tmp_path, monkeypatch
):
    list_ = object_store.file_system.ls

    def broken(self, path, *arguments, **options):
        if path.rstrip("/").endswith("deep"):
            raise PermissionError("Forbidden")
        return list_(self, path, *arguments, **options)

    monkeypatch.setattr(object_store.file_system, "ls", broken)
    assert f"{BOOKS} cannot be read: Forbidden" in message_of(CALLS["folder"], tmp_path)
