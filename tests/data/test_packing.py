import hashlib
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from cartesian_moe_jax.data import ByteTokenizer, open_packed, packing
from cartesian_moe_jax.data.documents import split_key
from cartesian_moe_jax.data.splits import split_of
from cartesian_moe_jax.data.tokenizers import registry
from cartesian_moe_jax.errors import UserError
from tests.packing import numbered_lines, pack_spec, pack_texts

REPOSITORY = pathlib.Path(__file__).parents[2]
TEXTS = {f"{i:03d}.txt": f"Document {i}: naïve 日本\n" * (i + 1) for i in range(60)}


class WideTokenizer(ByteTokenizer):
    """Bytes spread over a vocabulary that needs 32 bits."""

    kind = "wide"
    vocab_size = 70_000
    end_of_text = 69_999

    @classmethod
    def from_description(cls, description, where):
        return cls()

    def encode_batch(self, texts):
        return [t.astype(np.uint32) + np.uint32(69_000) for t in super().encode_batch(texts)]


def run_python(code, *arguments, **options):
    """Start a Python process in the repository root."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=REPOSITORY, **pipes, **options)


def test_splits_hold_every_document_and_an_end_of_text_after_each(tmp_path):
    packed = pack_texts(tmp_path, TEXTS, validation_share=0.2)
    for split in ("train", "validation"):
        tokens = packed.split(split)
        texts = [t for _, t in sorted(TEXTS.items()) if split_of(split_key(t), 0.2) == split]
        expected = [token for text in texts for token in [*text.encode("utf-8"), 256]]
        assert tokens.read(0, len(tokens)).tolist() == expected
        assert tokens.documents == len(texts) > 0
        assert tokens.num_bytes == sum(len(text.encode("utf-8")) for text in texts)
        assert tokens.num_words == sum(len(text.split()) for text in texts)


def test_shards_are_bounded_and_reads_cross_their_borders(tmp_path):
    packed = pack_texts(tmp_path, TEXTS, shard_tokens=100)
    train = open_packed(packed.directory, "train")
    shards = packed.metadata["splits"]["train"]["shards"]
    assert len(shards) == -(-len(train) // 100) > 3
    assert {shard["bytes"] for shard in shards[:-1]} == {200}
    for shard in shards:
        data = (packed.directory / shard["file"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (shard["bytes"], shard["sha256"])
    everything = train.read(0, len(train))
    assert everything.dtype == np.dtype("<u2")
    for start, stop in [(0, 1), (99, 101), (100, 200), (50, 350), (0, 0), (len(train) - 1, 10**9)]:
        np.testing.assert_array_equal(train.read(start, stop), everything[start:stop])


def test_content_hash_depends_on_content_and_not_on_place(tmp_path):
    one = pack_texts(tmp_path / "a", TEXTS, shard_tokens=77)
    same = pack_texts(tmp_path / "b", TEXTS, shard_tokens=77)
    other = pack_texts(tmp_path / "c", TEXTS | {"000.txt": "changed"}, shard_tokens=77)
    assert one.content_hash == same.content_hash != other.content_hash
    assert repr(one.split("train")) == repr(same.split("train"))
    assert one.split("train").content_hash != one.split("validation").content_hash


def test_a_large_vocabulary_takes_32_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "TOKENIZERS", {"wide": WideTokenizer})
    (tmp_path / "a.txt").write_text("héllo\n" * 20, encoding="utf-8")
    packed = pack_spec(tmp_path, f"text:{tmp_path}/a.txt", WideTokenizer())
    train = packed.split("train")
    tokens = train.read(0, len(train))
    assert tokens.dtype == np.dtype("<u4")
    assert tokens[0] == 69_000 + ord("h")
    assert tokens[-1] == 69_999


def test_packed_once_and_anew_when_a_file_changes(tmp_path):
    first = pack_texts(tmp_path, {"a.txt": numbered_lines(100)})
    written = {path: path.stat().st_mtime_ns for path in first.directory.iterdir()}
    same = pack_texts(tmp_path, {})
    assert same.directory == first.directory
    assert {path: path.stat().st_mtime_ns for path in same.directory.iterdir()} == written
    assert pack_texts(tmp_path, {}, shard_tokens=500).directory != first.directory
    assert pack_texts(tmp_path, {}, validation_share=0.1).directory != first.directory
    os.utime(tmp_path / "source" / "a.txt", ns=(0, 0))
    touched = pack_texts(tmp_path, {})
    assert touched.directory != first.directory
    assert touched.content_hash == first.content_hash


def test_several_workers_write_the_same_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "JOB_BYTES", 2000)
    one = pack_texts(tmp_path / "one", TEXTS)
    several = pack_texts(tmp_path / "several", TEXTS, workers=3)
    assert several.content_hash == one.content_hash
    assert several.metadata["splits"] == one.metadata["splits"]


def test_the_tokenizer_travels_with_the_tokens(tmp_path):
    assert pack_texts(tmp_path, TEXTS).tokenizer == ByteTokenizer()


def test_python_stdlib_packs_to_the_same_tokens_each_time(tmp_path):
    first, second = (
        pack_spec(tmp_path / name, "python_stdlib", shard_tokens=2**22) for name in ("a", "b")
    )
    assert first.content_hash == second.content_hash
    assert first.directory.name == second.directory.name
    sizes = [len(first.split(split)) for split in ("train", "validation")]
    assert sum(sizes) > 5_000_000
    assert sizes[1] > 100_000


@pytest.mark.parametrize("damage", ["cut", "longer", "missing"])
def test_a_damaged_shard_is_named(tmp_path, damage):
    packed = pack_texts(tmp_path, TEXTS, shard_tokens=100)
    shard = packed.directory / "train-00001.bin"
    if damage == "missing":
        shard.unlink()
    else:
        os.truncate(shard, 150 if damage == "cut" else 250)
    with pytest.raises(UserError, match=r"train-00001\.bin is damaged.*must have 200 bytes"):
        open_packed(packed.directory, "train")
    assert len(open_packed(packed.directory, "validation")) > 0


def test_a_folder_that_is_no_packed_corpus_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no packed corpus"):
        open_packed(tmp_path, "train")
    packed = pack_texts(tmp_path, TEXTS)
    with pytest.raises(UserError, match=r"'test' is unknown.*train, validation"):
        packed.split("test")
    metadata = packed.directory / "metadata.json"
    metadata.write_text(json.dumps(packed.metadata | {"format_version": 99}))
    with pytest.raises(UserError, match="format_version=99 must be 2"):
        open_packed(packed.directory, "train")
    metadata.write_text('{"format_version": 2, ')
    with pytest.raises(UserError, match="no packed corpus"):
        open_packed(packed.directory, "train")


def left_in(cache):
    """What packing left, beside the text it read, which is kept for other tokenizers."""
    return sorted(
        path for path in cache.rglob("*") if path.is_file() and "documents" not in path.parts
    )


def test_bad_text_leaves_nothing_in_the_cache(tmp_path):
    with pytest.raises(UserError, match="no text"):
        pack_texts(tmp_path, {"a.txt": " "})
    (tmp_path / "source" / "b.txt").write_bytes(b"good\n" * 1000)
    (tmp_path / "source" / "c.txt").write_bytes(b"good\n\xff")
    with pytest.raises(UserError, match=r"c\.txt is not UTF-8 text: bad byte at offset 5"):
        pack_texts(tmp_path, {})
    assert left_in(tmp_path / "cache") == []


def test_a_file_in_place_of_the_cache_is_an_error(tmp_path):
    (tmp_path / "cache").write_text("occupied")
    with pytest.raises(UserError, match=r"cannot write packed data to cache_dir=.*cache: "):
        pack_texts(tmp_path, TEXTS)
    assert (tmp_path / "cache").read_text() == "occupied"


PACK = """
import signal, sys
from cartesian_moe_jax.data import ByteTokenizer, PackSettings, pack, packing, parse_source
from cartesian_moe_jax.errors import UserError
def run(folder, **options):
    settings = PackSettings(folder + "/cache", shard_tokens=1000, **options)
    return pack(parse_source("text:" + folder + "/source"), ByteTokenizer(), settings)
"""

FULL_DISK = (
    PACK
    + """
import resource
import tensorflow_datasets
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    run(sys.argv[1])
except UserError as error:
    print(error)
"""
)


@pytest.mark.parametrize("room", [0, 1500, 60_000])
def test_no_space_left_is_an_error_and_leaves_nothing(tmp_path, room):
    source = tmp_path / "source" / "a.txt"
    source.parent.mkdir()
    source.write_text("x\n" * (20 if room == 1500 else 50_000))
    output, errors = run_python(FULL_DISK, tmp_path, room).communicate(timeout=60)
    assert errors == ""
    assert output.count("\n") == 1
    assert output.startswith(f"cannot write packed data to cache_dir={tmp_path / 'cache'}: ")
    assert left_in(tmp_path / "cache") == []


KILLED = (
    PACK
    + """
import os
packing.JOB_BYTES, packing.JOURNAL_SECONDS, tokenized = 2000, 0.0, packing.Packing._tokenized
def killed(self, *arguments):
    for number, reply in enumerate(tokenized(self, *arguments)):
        if number == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        yield reply
packing.Packing._tokenized = killed
run(sys.argv[1], workers=int(sys.argv[3]))
"""
)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("after", [0, 1, 9])
def test_a_killed_packing_goes_on_where_it_was(tmp_path, monkeypatch, after, workers):
    monkeypatch.setattr(packing, "JOB_BYTES", 2000)
    expected = pack_texts(tmp_path / "whole", TEXTS)
    (tmp_path / "whole" / "source").rename(tmp_path / "source")
    run_python(KILLED, tmp_path, after, workers).communicate(timeout=60)
    assert not list((tmp_path / "cache").glob("text-*"))
    ranges, run_jobs = [], packing.run_jobs

    def noted(name, settings, requests, workers):
        ranges.extend(requests)
        return run_jobs(name, settings, requests, workers)

    monkeypatch.setattr(packing, "run_jobs", noted)
    packed = pack_texts(tmp_path, {})
    assert packed.content_hash == expected.content_hash
    assert packed.metadata["splits"] == expected.metadata["splits"]
    assert (ranges[0]["start"] > 0) == (after > 0), "what was done is not done again"
    names = {path.name for path in (tmp_path / "cache").iterdir()}
    assert names == {"documents", packed.directory.name}


AT_ONCE = (
    PACK
    + """
calls, write = [], packing.Packing._write
def counted(self, *arguments):
    calls.append(1)
    write(self, *arguments)
packing.Packing._write = counted
print("ready", flush=True)
sys.stdin.readline()
packed = run(sys.argv[1])
print(len(calls), packed.content_hash)
"""
)


def test_of_two_processes_at_once_one_packs_and_both_read(tmp_path):
    expected = pack_texts(tmp_path / "whole", TEXTS).content_hash
    (tmp_path / "whole" / "source").rename(tmp_path / "source")
    processes = [run_python(AT_ONCE, tmp_path, stdin=subprocess.PIPE) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=60)[0].split() for process in processes]
    assert sorted(calls for calls, _ in outputs) == ["0", "1"]
    assert {content_hash for _, content_hash in outputs} == {expected}
    names = {path.name.partition("-")[0] for path in (tmp_path / "cache").iterdir()}
    assert names == {"documents", "text"}
