"""How much text the first tokens of a split stand for: counted, not taken from the average."""

import itertools
import json

import pytest

from cartesian_moe_jax.data import ByteTokenizer, marks, open_packed, packing
from cartesian_moe_jax.data.marks import Marks
from cartesian_moe_jax.data.text_size import TextSize
from cartesian_moe_jax.data.tokenizers import resolve_tokenizer
from cartesian_moe_jax.errors import UserError
from tests.packing import pack_spec
from tests.tokenizer_files import bpe_file, sentencepiece_file

CHINESE, ENGLISH = "的一是不了人我在有他 " * 40, "the sea and the ship of storm " * 40
TEXTS = [(CHINESE if i < 4 else ENGLISH) + str(i) for i in range(8)]
SPACED = {"normalization_rule_name": "nmt_nfkc", "remove_extra_whitespaces": True}


def size(texts):
    return sum(len(text.encode()) for text in texts), sum(len(text.split()) for text in texts)


def packed(folder, texts, tokenizer):
    """All of the texts, in their order, as one split."""
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return pack_spec(folder, f"text:{folder}/a.jsonl", tokenizer, "all")


def made(kind, folder):
    files = {"bpe": bpe_file, "sentencepiece": sentencepiece_file}
    return resolve_tokenizer(str(files[kind](folder))) if kind in files else ByteTokenizer()


def without_marks(corpus):
    """The folder as earlier versions packed it."""
    file = corpus.directory / "metadata.json"
    metadata = json.loads(file.read_text())
    for stream in metadata["splits"].values():
        del stream["marks"]
    file.write_text(json.dumps(metadata))
    return open_packed(corpus.directory, "all")


@pytest.mark.parametrize("kind", ["bytes", "bpe", "sentencepiece"])
@pytest.mark.parametrize("spacing", [1, 1500, 10**9])
def test_the_text_of_any_beginning_is_counted(tmp_path, monkeypatch, kind, spacing):
    monkeypatch.setattr(marks, "SPACING", spacing)
    tokenizer = made(kind, tmp_path)
    split = packed(tmp_path, TEXTS, tokenizer).split("all")
    tokens = 0
    for i, text in enumerate(TEXTS):
        ids = tokenizer.encode(text)
        assert split.size_until(tokens)[1:] == size(TEXTS[:i])
        half = tokenizer.decode(ids[: len(ids) // 2]).rstrip("\ufffd")
        assert half and text.startswith(half)
        found = split.size_until(tokens + len(ids) // 2)
        assert found[1:] == size([*TEXTS[:i], half])
        tokens += len(ids) + 1
    assert split.size_until(10**9) == TextSize(len(split), *size(TEXTS))
    assert without_marks(split.corpus).size_until(tokens // 3) == split.size_until(tokens // 3)


def test_half_a_character_is_none_and_half_a_word_is_one(tmp_path):
    split = packed(tmp_path, ["ab 日本 cd"], ByteTokenizer()).split("all")
    sizes = [split.size_until(stop)[1:] for stop in range(len(split) + 1)]
    assert sizes[:4] == [(0, 0), (1, 1), (2, 1), (3, 1)]
    assert sizes[4:10] == [(3, 1), (3, 1), (6, 2), (6, 2), (6, 2), (9, 2)]
    assert sizes[10:] == [(10, 2), (11, 3), (12, 3), (12, 3)]


def test_what_a_tokenizer_drops_is_counted_with_what_it_keeps(tmp_path, monkeypatch):
    """Decoded, the text is half as long as what was read."""
    monkeypatch.setattr(marks, "SPACING", 200)
    tokenizer = resolve_tokenizer(str(sentencepiece_file(tmp_path, **SPACED)))
    texts = [f"line {i}:{' ' * 40}a  b\n" for i in range(60)]
    split = packed(tmp_path, texts, tokenizer).split("all")
    lengths = [len(tokenizer.encode(text)) + 1 for text in texts]
    for stop, read in zip(itertools.accumulate(lengths), range(1, 61), strict=True):
        exact_bytes, exact_words = size(texts[:read])
        found = split.size_until(stop)
        assert found.bytes == pytest.approx(exact_bytes, rel=0.05), read
        assert found.words == exact_words
    assert len(tokenizer.decode(split.read(0, len(split)))) < 0.5 * split.num_bytes


def test_marks_are_the_same_for_any_jobs_and_few(tmp_path, monkeypatch):
    monkeypatch.setattr(marks, "SPACING", 100)
    texts = [f"{i} " * (i % 7 + 1) for i in range(4000)]
    monkeypatch.setattr(packing, "JOB_BYTES", 10**9)
    (tmp_path / "one").mkdir()
    split = packed(tmp_path / "one", texts, ByteTokenizer()).split("all")
    text = split.corpus.metadata["splits"]["all"]["marks"]
    assert 20 < len(text.split()) < 150
    monkeypatch.setattr(packing, "JOB_BYTES", 2000)
    (tmp_path / "many").mkdir()
    other = packed(tmp_path / "many", texts, ByteTokenizer()).split("all")
    assert len(other.corpus.metadata["splits"]["all"]["marks"].split()) > 20
    for stop in range(1, len(split), 997):
        assert split.size_until(stop) == other.size_until(stop)


def test_marks_are_one_line_and_lie_around_any_token():
    kept = Marks([(5000, 9000, 900), (5100, 9100, 910), (10_000, 20_000, 1000)])
    assert kept.to_text() == "5000:9000:900 10000:20000:1000"
    again, whole = Marks.from_text(kept.to_text()), TextSize(12_000, 30_000, 1100)
    assert [s.tokens for s in again.around(4999, whole)] == [0, 5000]
    assert [s.tokens for s in again.around(5000, whole)] == [5000, 10_000]
    assert [s.tokens for s in again.around(11_000, whole)] == [10_000, 12_000]
    assert again.behind(TextSize(1, 2, 3))[0] == TextSize(5001, 9002, 903)


@pytest.mark.parametrize("damage", ["5000:1", "a:b:c", 7, ["1:2:3"]])
def test_damaged_marks_are_one_line(tmp_path, damage):
    corpus = packed(tmp_path, TEXTS, ByteTokenizer())
    corpus.metadata["splits"]["all"]["marks"] = damage
    with pytest.raises(UserError, match=r"metadata.json is damaged: the marks of 'all'"):
        corpus.split("all")
