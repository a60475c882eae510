"""Paths on disks and in object stores, and the files that are published and fetched there."""

import threading
from pathlib import Path

import pytest

from cartesian_moe_jax import paths
from cartesian_moe_jax.paths import (
    absolute,
    as_path,
    entries,
    fetch,
    is_file,
    is_remote,
    publish,
    remove,
    write_atomically,
)
from tests.messages import message_of

pytest_plugins = ["tests.stand_in_store"]

REMOTE = "gs://bucket/deep/folder"


@pytest.fixture(params=["local", "remote"])
def folder(request, tmp_path, object_store):
    """A folder to write to, on either side."""
    if request.param == "remote":
        return as_path(REMOTE)
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


@pytest.fixture
def packed(tmp_path):
    """A folder of three files whose names do not sort in the order of their writing."""
    folder = tmp_path / "packed"
    folder.mkdir()
    for name, content in {"a.json": b"{}", "b.bin": b"x" * 1000, "c.bin": b""}.items():
        (folder / name).write_bytes(content)
    return folder


def sizes(folder):
    return [(file.name, file.stat().st_size) for file in sorted(folder.iterdir())]


def test_a_local_path_is_pathlibs_and_its_tilde_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert as_path("~/run") == tmp_path / "run"
    assert as_path(tmp_path) == tmp_path
    assert type(as_path("run")) is type(Path("run"))
    assert absolute(as_path("run")) == Path.cwd() / "run"
    assert not is_remote(as_path("odd:/name"))


@pytest.mark.parametrize("text", ["gs://bucket", "gs://bucket/a/b", "s3://bucket/a", "az://b/a"])
def test_a_remote_path_stays_as_they_are(text):
    path = as_path(text)
    assert is_remote(path)
    assert str(path) == str(absolute(path)) == str(as_path(path)) == text
    assert str(path / "name.json") == f"{text}/name.json"


@pytest.mark.parametrize("text", ["http://host/a", "file:///tmp/a", "gcs://bucket/a", "://a"])
def test_another_scheme_is_refused_with_what_is_allowed(text):
    message = message_of(as_path, text)
    for words in (repr(text), "local", "gs://", "s3://"):
        assert words in message


@pytest.mark.parametrize("text", ["gs://", "gs:///a", Path("gs://bucket/a"), "s3:/bucket"])
def test_a_path_without_its_bucket_does_not_become_a_local_folder(text):
    assert "BUCKET" in message_of(as_path, text)


def test_files_are_written_listed_read_and_removed(folder):
    file = folder / "a.json"
    assert not is_file(file)
    assert entries(folder) == []
    write_atomically(file, "first, and longer")
    write_atomically(file, "sécond")
    write_atomically(folder / "b", b"\x00")
    assert file.read_bytes() == "sécond".encode()
    assert [path.name for path in entries(folder)] == ["a.json", "b"]
    assert is_file(file) and not is_file(folder)
    remove(file)
    remove(file)
    assert entries(folder) == [folder / "b"]


def test_a_folder_that_is_not_there_is_empty(folder):
    assert entries(folder / "missing") == []
    assert not is_file(folder / "missing" / "file")


def test_the_marker_of_an_empty_folder_is_not_listed(object_store):
    object_store.put("bucket/deep/folder/", b"")
    assert entries(as_path(REMOTE)) == []
    inside = as_path(REMOTE) / "folder"  # as the marker is listed
    write_atomically(inside, "text")
    assert entries(as_path(REMOTE)) == [inside]


def test_a_local_write_that_fails_leaves_the_old_file_alone(tmp_path, monkeypatch):
    file = tmp_path / "a.json"
    write_atomically(file, "old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(paths.os, "fsync", full)
    assert message_of(write_atomically, file, "new") == (
        f"{file} cannot be written: No space left on device"
    )
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_nothing_is_renamed_in_an_object_store(object_store, packed):
    write_atomically(as_path(REMOTE) / "a", "text")
    publish(packed, as_path(REMOTE), last="a.json")
    assert object_store.renamed == []
    assert object_store.buckets == {"bucket"}


def test_the_last_file_is_published_after_all_others(object_store, packed):
    publish(packed, as_path(REMOTE), last="a.json")
    names = [name.removeprefix("bucket/deep/folder/") for name in object_store.written]
    assert names == ["b.bin", "c.bin", "a.json"]
    assert object_store.objects()["bucket/deep/folder/b.bin"] == b"x" * 1000


def test_what_was_published_is_fetched(folder, packed, tmp_path):
    publish(packed, folder / "new", last="a.json")
    fetch(folder / "new", tmp_path / "cache" / "new", sizes(packed))
    assert sizes(tmp_path / "cache" / "new") == sizes(packed)
    assert (tmp_path / "cache" / "new" / "b.bin").read_bytes() == b"x" * 1000


def test_an_upload_cut_short_leaves_the_last_file_away(object_store, packed):
    object_store.put = stop_at("bucket/deep/folder/c.bin", object_store.put)
    assert "cannot be written" in message_of(publish, packed, as_path(REMOTE), "a.json")
    assert not is_file(as_path(REMOTE) / "a.json")
    assert is_file(as_path(REMOTE) / "b.bin")


def stop_at(name, put):
    """Let ``put`` fail for one object."""

    def failing(target, content):
        if target == name:
            raise TimeoutError("the store does not answer")
        put(target, content)

    return failing


def test_only_what_is_missing_or_of_another_size_is_fetched(object_store, packed, tmp_path):
    source, cache, wanted = as_path(REMOTE), tmp_path / "cache", sizes(packed)
    publish(packed, source, last="a.json")
    cache.mkdir()
    (cache / "a.json").write_bytes(b"[]")
    (cache / "b.bin").write_bytes(b"y" * 999)
    fetch(source, cache, wanted)
    assert (cache / "a.json").read_bytes() == b"[]"
    assert (cache / "b.bin").read_bytes() == b"x" * 1000
    object_store.failure = PermissionError("not again")
    fetch(source, cache, wanted)


@pytest.mark.parametrize("content", [b"x" * 999, b"x" * 1001, b""])
def test_a_damaged_object_is_not_fetched(object_store, tmp_path, content):
    object_store.put("bucket/deep/folder/b.bin", content)
    message = message_of(fetch, as_path(REMOTE), tmp_path / "cache", [("b.bin", 1000)])
    assert f"{REMOTE}/b.bin" in message
    assert f"{len(content):,} bytes, not 1,000" in message
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_missing_object_is_named(object_store, tmp_path):
    message = message_of(fetch, as_path(REMOTE), tmp_path / "cache", [("b.bin", 1000)])
    assert f"{REMOTE}/b.bin" in message and "no such object" in message


def test_a_cache_that_cannot_be_made_is_one_line(object_store, tmp_path):
    (tmp_path / "file").write_text("text")
    cache = tmp_path / "file" / "cache"
    assert f"{cache} cannot be made" in message_of(fetch, as_path(REMOTE), cache, [])


@pytest.mark.parametrize(
    "name", ["../b", "a/b", "/etc/b", "..", ".", "", "a\\b", "a\x00b", "a/..", "b/"]
)
def test_a_listing_cannot_make_us_write_outside_the_folder(object_store, tmp_path, name):
    object_store.put("bucket/deep/folder/fine", b"x")
    files = [("fine", 1), (name, 1)]
    assert repr(name) in message_of(fetch, as_path(REMOTE), tmp_path / "cache" / "deep", files)
    assert not (tmp_path / "cache").exists()


def test_two_that_fetch_at_once_do_not_disturb_each_other(
    object_store, packed, tmp_path, monkeypatch
):
    publish(packed, as_path(REMOTE), last="a.json")
    both_read, copy = threading.Barrier(2, timeout=30), paths.shutil.copyfileobj

    def copy_together(source, target, length):
        copy(source, target, length)
        both_read.wait()  # neither has put its file in place yet

    monkeypatch.setattr(paths.shutil, "copyfileobj", copy_together)
    errors = []

    def run():
        try:
            fetch(as_path(REMOTE), tmp_path / "cache", [("b.bin", 1000)])
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sizes(tmp_path / "cache") == [("b.bin", 1000)]


@pytest.mark.parametrize(
    "failure, words",
    [
        (PermissionError("Forbidden: b/o\nno access"), "Forbidden: b/o no access"),
        (ConnectionError("Cannot connect to host"), "Cannot connect to host"),
        (RuntimeError("credentials\nexpired"), "credentials expired"),
        (TimeoutError(), "TimeoutError"),
    ],
)
@pytest.mark.parametrize(
    "act", [is_file, entries, remove, lambda path: write_atomically(path, "text")]
)
def test_a_store_out_of_reach_is_one_line(object_store, failure, words, act):
    object_store.failure = failure
    message = message_of(act, as_path(REMOTE))
    assert REMOTE in message and words in message


def test_a_bucket_that_is_not_there_is_not_made(object_store):
    file = as_path("gs://another/a.json")
    assert "no such bucket" in message_of(write_atomically, file, "text")
    assert object_store.buckets == {"bucket"}


def test_a_missing_package_is_named_with_the_remedy(monkeypatch):
    from etils.epath import backend
    from fsspec.registry import _registry, known_implementations

    backend._FileSystemSpecBackend._get_filesystem.cache_clear()
    for protocol in ("gcs", "gs"):
        absent = {"class": "no_such_package.Store", "err": "install it"}
        monkeypatch.setitem(known_implementations, protocol, absent)
        monkeypatch.delitem(_registry, protocol, raising=False)
    message = message_of(is_file, as_path(REMOTE))
    assert REMOTE in message and "pip install gcsfs" in message
