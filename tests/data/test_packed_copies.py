"""Packed tokens of an object store, opened through local copies: `packed:gs://...`."""

import json

import pytest

from cartesian_moe_jax.data.packed_cache import open_anywhere
from tests.messages import message_of
from tests.remote_data import (
    CACHE,
    PLACE,
    change_metadata,
    files_on_machines,
    pack_remotely,
    shared,
    stopped,
    tokens_of,
)

pytest_plugins = ["tests.stand_in_store", "tests.remote_data"]


def test_packed_tokens_are_opened_through_a_local_copy(object_store, tmp_path):
    packed = shared(tmp_path)
    opened = open_anywhere(PLACE)
    assert tokens_of(opened) == tokens_of(packed)
    assert opened.directory.is_relative_to(tmp_path / "machines" / "first")
    object_store.read.clear()
    assert open_anywhere(PLACE).directory == opened.directory
    assert not [name for name in object_store.read if name.endswith(".bin")]


def test_tokens_that_took_the_place_of_others_are_fetched(object_store, tmp_path):
    first = shared(tmp_path, "first")
    before = open_anywhere(PLACE)
    second = shared(tmp_path, "other")
    sizes = [
        [shard["bytes"] for stream in p.metadata["splits"].values() for shard in stream["shards"]]
        for p in (first, second)
    ]
    assert sizes[0] == sizes[1], "or sizes tell them apart"
    assert tokens_of(open_anywhere(PLACE)) == tokens_of(second) != tokens_of(first)
    assert tokens_of(before) == tokens_of(first)


def test_tokens_that_are_being_replaced_are_not_mixed(object_store, tmp_path, monkeypatch):
    shared(tmp_path, "first")
    with pytest.MonkeyPatch.context() as patch:
        stopped(object_store, patch, "metadata.json")
        message_of(shared, tmp_path, "other")
    message = message_of(open_anywhere, PLACE)
    assert ".bin" in message and "sha256" in message
    assert tokens_of(shared(tmp_path, "other")) == tokens_of(open_anywhere(PLACE))


def test_a_damaged_shard_is_fetched_again_when_it_is_mended(
    books, object_store, packings, on_machine
):
    first = pack_remotely()
    name = f"bucket/packed/{first.directory.name}/train-00001.bin"
    content = object_store.objects()[name]
    object_store.put(name, content[:-1] + b"?")
    on_machine("second")
    message = message_of(pack_remotely)
    assert f"gs://{name}" in message and "sha256" in message
    object_store.put(name, content)
    assert tokens_of(pack_remotely()) == tokens_of(first)
    assert packings == [first.directory]


@pytest.mark.parametrize("through", ["cache_dir", "packed:"])
@pytest.mark.parametrize("name", ["../../x", "/{tmp}/x", "a/x", "a\\x", "..", ".", ""])
def test_a_listing_cannot_make_us_write_elsewhere(
    books, object_store, on_machine, tmp_path, name, through
):
    name = name.replace("/{tmp}", str(tmp_path))
    packed = pack_remotely()
    folder = f"{CACHE}/{packed.directory.name}"

    def change(metadata):
        metadata["splits"]["train"]["shards"][1]["file"] = name

    change_metadata(object_store, folder, change)
    object_store.put(f"{folder.removeprefix('gs://')}/{name}", b"evil")
    on_machine("second")
    before = files_on_machines(tmp_path)
    call = pack_remotely if through == "cache_dir" else lambda: open_anywhere(folder)
    message = message_of(call)
    assert folder in message and repr(name) in message
    assert files_on_machines(tmp_path) == before


@pytest.mark.parametrize("difference", [-2, 2])
def test_a_shard_of_another_size_is_refused(object_store, tmp_path, difference):
    shared(tmp_path)

    def change(metadata):
        metadata["splits"]["train"]["shards"][0]["bytes"] += difference

    change_metadata(object_store, PLACE, change)
    for _ in range(2):
        message = message_of(open_anywhere, PLACE)
        assert f"{PLACE}/train-00000.bin" in message and "bytes, not" in message


ONE = {"file": "train-00000.bin", "bytes": 4, "sha256": "0"}


def listing(**changes):
    shards = [ONE | changes]
    return json.dumps({"splits": {"train": {"shards": shards}}, "tokenizer_bytes": 4}).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"splits": ',
        b"\xff\xfe",
        b"[]",
        b'{"splits": []}',
        b'{"splits": {"train": 3}}',
        b'["' + b"[" * 200_000,
        listing(file=5),
        listing(bytes="4"),
        listing(sha256=None),
    ],
)
def test_metadata_that_is_none_is_one_line(object_store, tmp_path, content):
    object_store.put("bucket/shared/mine/metadata.json", content)
    object_store.put("bucket/shared/mine/train-00000.bin", b"data")
    object_store.put("bucket/shared/mine/tokenizer.json", b"{} {")
    before = files_on_machines(tmp_path)
    message = message_of(open_anywhere, PLACE)
    assert PLACE in message and "metadata.json is unreadable" in message
    assert files_on_machines(tmp_path) == before


def test_a_place_without_metadata_is_no_packed_corpus(object_store):
    message = message_of(open_anywhere, PLACE)
    assert PLACE in message and "it has no metadata.json" in message


def test_a_local_cache_must_be_local(books, tmp_path, monkeypatch):
    shared(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "gs://bucket/home")
    monkeypatch.chdir(tmp_path)
    for call in (pack_remotely, lambda: open_anywhere(PLACE)):
        assert "gs://bucket/home" in message_of(call)
    assert not (tmp_path / "gs:").exists()
