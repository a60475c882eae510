import hashlib
import json

import numpy as np
import pytest

from cartesian_moe_jax.data.shards import ShardWriter
from cartesian_moe_jax.data.tokenizing import Counts

SHARD_BYTES = 10


def chunks(seed, count=12):
    """Small arrays of tokens, some empty, some longer than several shards."""
    random = np.random.default_rng(seed)
    sizes = random.choice([0, 1, 2, 3, 5, 8, 19], count)
    return [random.integers(0, 2**16, size, dtype=np.uint16) for size in sizes]


def add(writer, arrays):
    for tokens in arrays:
        words = len(tokens) // 2
        writer.add(Counts(1, tokens.nbytes, words, len(tokens)), tokens)


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def write(folder, arrays, limit=SHARD_BYTES):
    """Write everything without an interruption; return what is said of it, and the files."""
    folder.mkdir()
    writer = ShardWriter(folder, "train", limit)
    add(writer, arrays)
    return writer.finish(), files(folder)


def check(facts, written, arrays):
    data = b"".join(tokens.tobytes() for tokens in arrays)
    assert b"".join(written.values()) == data
    assert list(written) == [shard["file"] for shard in facts["shards"]]
    for shard in facts["shards"]:
        content = written[shard["file"]]
        assert shard["bytes"] == len(content)
        assert shard["sha256"] == hashlib.sha256(content).hexdigest()
    assert [shard["bytes"] for shard in facts["shards"][:-1]] == [SHARD_BYTES] * (len(written) - 1)
    assert facts["documents"] == len(arrays)
    assert facts["bytes"] == len(data)
    assert facts["words"] == sum(len(tokens) // 2 for tokens in arrays)
    assert facts["tokens"] == sum(map(len, arrays))


@pytest.mark.parametrize("seed", range(5))
def test_shards_are_full_and_hashed_and_make_up_the_tokens(tmp_path, seed):
    arrays = chunks(seed)
    facts, written = write(tmp_path / "a", arrays)
    assert len(written) > 2
    check(facts, written, arrays)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], []),
        ([0, 0], []),
        ([4], [8]),
        ([5], [10]),
        ([5, 0], [10]),
        ([5, 1], [10, 2]),
        ([10], [10, 10]),
        ([4, 1, 5], [10, 10]),
        ([11], [10, 10, 2]),
    ],
)
def test_a_shard_ends_at_its_limit_and_none_is_empty(tmp_path, sizes, expected):
    arrays = [np.arange(size, dtype=np.uint16) for size in sizes]
    facts, written = write(tmp_path / "a", arrays)
    assert [shard["bytes"] for shard in facts["shards"]] == expected
    assert [len(content) for content in written.values()] == expected
    assert list(written) == [f"train-{i:05d}.bin" for i in range(len(expected))]


@pytest.mark.parametrize("seed", range(3))
def test_writing_continues_after_every_state_as_if_it_had_not_stopped(tmp_path, seed):
    arrays = chunks(seed)
    expected = write(tmp_path / "whole", arrays)
    for stop in range(len(arrays) + 1):
        for later in range(stop, len(arrays) + 1):
            folder = tmp_path / f"{stop}-{later}"
            folder.mkdir()
            first = ShardWriter(folder, "train", SHARD_BYTES)
            add(first, arrays[:stop])
            state = json.dumps(first.state())
            # What is written after the state was taken, perhaps into further shards, is undone.
            add(first, arrays[stop:later])
            first.state()
            first.abandon()
            second = ShardWriter(folder, "train", SHARD_BYTES, json.loads(state))
            add(second, arrays[stop:])
            assert (second.finish(), files(folder)) == expected, (stop, later)


def test_writing_may_stop_and_continue_many_times(tmp_path):
    arrays = chunks(7, 30)
    expected = write(tmp_path / "whole", arrays)
    folder, state = tmp_path / "parts", None
    folder.mkdir()
    for tokens in arrays:
        writer = ShardWriter(folder, "train", SHARD_BYTES, state)
        add(writer, [tokens])
        state = json.loads(json.dumps(writer.state()))
        writer.abandon()
    assert (ShardWriter(folder, "train", SHARD_BYTES, state).finish(), files(folder)) == expected


def test_other_bytes_behind_a_state_are_cut_off(tmp_path):
    arrays = [np.arange(7, dtype=np.uint16), np.arange(2, dtype=np.uint16)]
    expected = write(tmp_path / "whole", arrays)
    folder = tmp_path / "a"
    folder.mkdir()
    writer = ShardWriter(folder, "train", SHARD_BYTES)
    add(writer, arrays[:1])
    state = writer.state()
    writer.abandon()
    with open(folder / "train-00001.bin", "ab") as file:
        file.write(b"rubbish that another run left, longer than a shard")
    writer = ShardWriter(folder, "train", SHARD_BYTES, state)
    assert (folder / "train-00001.bin").stat().st_size == 4
    add(writer, arrays[1:])
    assert (writer.finish(), files(folder)) == expected


def test_a_state_does_not_change_when_writing_goes_on(tmp_path):
    writer = ShardWriter(tmp_path, "train", SHARD_BYTES)
    add(writer, [np.arange(6, dtype=np.uint16)])
    state = writer.state()
    before = json.dumps(state)
    add(writer, [np.arange(30, dtype=np.uint16)])
    writer.finish()
    assert json.dumps(state) == before


@pytest.mark.parametrize("left", [None, b"", b"abc"])
def test_a_file_that_lost_what_was_written_is_not_continued(tmp_path, left):
    writer = ShardWriter(tmp_path, "train", SHARD_BYTES)
    add(writer, [np.arange(2, dtype=np.uint16)])
    state = writer.state()
    writer.abandon()
    path = tmp_path / "train-00000.bin"
    path.unlink() if left is None else path.write_bytes(left)
    with pytest.raises(OSError, match=r"train-00000\.bin"):
        ShardWriter(tmp_path, "train", SHARD_BYTES, state)


def test_streams_of_several_prefixes_lie_side_by_side(tmp_path):
    for prefix in ("train", "train-group0001", "validation"):
        writer = ShardWriter(tmp_path, prefix, SHARD_BYTES)
        add(writer, [np.arange(6, dtype=np.uint16)])
        writer.finish()
    assert len(files(tmp_path)) == 6


def test_tokens_of_32_bits_are_kept(tmp_path):
    tokens = np.array([1, 70_000, 2**31], np.uint32)
    writer = ShardWriter(tmp_path, "train", 8)
    writer.add(Counts(1, 3, 1, 3), tokens)
    assert [shard["bytes"] for shard in writer.finish()["shards"]] == [8, 4]
    data = b"".join(files(tmp_path).values())
    np.testing.assert_array_equal(np.frombuffer(data, "<u4"), tokens)
