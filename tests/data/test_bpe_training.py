import json
import os
import pathlib
import subprocess
import sys

import pytest

from cartesian_moe_jax import paths
from cartesian_moe_jax.data.tokenizers import resolve_tokenizer, train_bpe
from cartesian_moe_jax.errors import UserError
from tests.tokenizer_files import TRICKY_TEXTS, bpe_file, sentences

REPOSITORY = pathlib.Path(__file__).parents[2]


def refused(words, path, texts=("ab ab",), vocab_size=300, **options):
    with pytest.raises(UserError, match=words) as caught:
        train_bpe(iter(texts), vocab_size, path, **options)
    assert "\n" not in str(caught.value)


def test_training_makes_a_tokenizer_that_shortens_its_texts(tmp_path):
    tokenizer = resolve_tokenizer(str(bpe_file(tmp_path, vocab_size=320)))
    assert (tokenizer.vocab_size, tokenizer.end_of_text, tokenizer.model) == (320, 0, "bpe")
    text = " ".join(sentences(10))
    assert len(tokenizer.encode(text)) < len(text) / 1.5


@pytest.mark.parametrize("text", TRICKY_TEXTS)
def test_texts_unlike_the_corpus_come_back(tmp_path, text):
    path = tmp_path / "tokenizer.json"
    assert train_bpe(iter(["ab"]), 257, path) == 257
    tokenizer = resolve_tokenizer(str(path))
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode(text)) == len(text.encode("utf-8"))


@pytest.mark.parametrize("threads, seed", [("1", "1"), ("4", "2")])
def test_equal_texts_make_equal_files(tmp_path, threads, seed):
    here = bpe_file(tmp_path, "here.json").read_bytes()
    program = (
        "import pathlib; from tests.tokenizer_files import bpe_file; "
        f"bpe_file(pathlib.Path({str(tmp_path)!r}), 'there.json')"
    )
    environment = os.environ | {"RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": seed}
    command = [sys.executable, "-c", program]
    subprocess.run(command, cwd=REPOSITORY, env=environment, check=True)
    assert (tmp_path / "there.json").read_bytes() == here
    assert bpe_file(tmp_path, "other.json", seed=1).read_bytes() != here


def test_a_small_corpus_reaches_fewer_tokens(tmp_path):
    path = tmp_path / "tokenizer.json"
    assert train_bpe(iter(["ab ab"]), 5000, path) == 258
    assert resolve_tokenizer(str(path)).vocab_size == 258


def test_texts_are_read_one_by_one_and_counted(tmp_path):
    calls, read = [], []

    def texts():
        for text in ("ab", "é", "a\ud800"):
            read.append(len(calls))
            yield text

    path = tmp_path / "tokenizer.json"
    train_bpe(texts(), 300, path, progress=lambda *counts: calls.append(counts))
    assert calls == [(1, 2), (2, 4), (3, 6)]
    assert read == [0, 1, 2]


def test_the_end_of_text_can_be_named(tmp_path):
    path = tmp_path / "tokenizer.json"
    train_bpe(iter(["ab <eos> ab"]), 300, path, end_of_text="<eos>")
    tokenizer = resolve_tokenizer(str(path))
    assert tokenizer.description()["end_of_text"] == "<eos>"
    assert tokenizer.end_of_text == 0
    assert 0 not in tokenizer.encode("ab <eos> ab")


@pytest.mark.parametrize("name", ["", "EOF", "a", " the"])
def test_an_end_of_text_that_words_could_make_is_refused(tmp_path, name):
    refused("end_of_text='.*' must mix", tmp_path / "tokenizer.json", end_of_text=name)


@pytest.mark.parametrize("texts", [(), ("", "")])
def test_an_empty_corpus_is_refused_and_leaves_nothing(tmp_path, texts):
    refused("the corpus has no text", tmp_path / "tokenizer.json", texts)
    assert list(tmp_path.iterdir()) == []


def test_too_few_tokens_are_refused(tmp_path):
    refused("vocab_size=256 must be at least 257", tmp_path / "tokenizer.json", vocab_size=256)


def unread():
    raise AssertionError("texts were read")
    yield ""


@pytest.mark.parametrize(
    "name, words",
    [
        ("", "cannot be written: it is a folder"),
        ("missing/t.json", "cannot be written: .*missing must be a writable folder"),
        ("file/t.json", "cannot be written: .*file must be a writable folder"),
    ],
)
def test_a_path_that_cannot_be_written_is_refused_before_reading(tmp_path, name, words):
    (tmp_path / "file").write_text("")
    refused(words, tmp_path / name, unread())


def test_a_folder_that_may_not_be_written_is_refused_before_reading(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: (path, mode) != (tmp_path, os.W_OK))
    refused("must be a writable folder", tmp_path / "t.json", unread())


def test_a_file_system_that_takes_no_files_is_one_line():
    refused("/proc/t.json cannot be written", pathlib.Path("/proc/t.json"))


def test_a_failure_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = bpe_file(tmp_path)
    before = path.read_bytes()

    def failing():
        yield "ab ab"
        raise RuntimeError("broken corpus")

    with pytest.raises(RuntimeError, match="broken corpus"):
        train_bpe(failing(), 300, path)

    def full(descriptor):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(paths.os, "fsync", full)
    refused("cannot be written: No space left on device", path, sentences(seed=2))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_is_json_that_other_programs_read(tmp_path):
    import tokenizers

    path = bpe_file(tmp_path)
    assert json.loads(path.read_text(encoding="utf-8"))["model"]["type"] == "BPE"
    library = tokenizers.Tokenizer.from_file(str(path))
    text = "ab naïve\n"
    assert library.encode(text).ids == resolve_tokenizer(str(path)).encode(text).tolist()
