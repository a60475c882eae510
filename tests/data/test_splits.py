import gzip
import json

import pytest

from cartesian_moe_jax.data import documents as documents_module
from cartesian_moe_jax.data import parse_source
from cartesian_moe_jax.data import splits as splits_module
from cartesian_moe_jax.data.documents import BLOCK_ROWS, Dataset, Document, Documents, split_key
from cartesian_moe_jax.data.sources import rows as rows_module
from cartesian_moe_jax.data.sources.source import Reading
from cartesian_moe_jax.data.splits import SplitRule, choose_rule, cut_at_line_end, split_of
from cartesian_moe_jax.errors import UserError
from tests.packing import numbered_lines


class Rows:
    """Rows of a dataset that note which were read."""

    def __init__(self, texts):
        self.texts, self.read = texts, []

    def __len__(self):
        return len(self.texts)

    def __getitems__(self, keys):
        self.read.extend(keys)
        return [{"text": self.texts[key].encode()} for key in keys]


@pytest.fixture
def documents_of(monkeypatch):
    """Makes documents, and the rows beneath, of lists of texts by the split they go to."""

    def make(*splits_and_texts):
        sources = [Rows(texts) for _, texts in splits_and_texts]
        names = {f"dataset{i}": source for i, source in enumerate(sources)}
        monkeypatch.setattr(documents_module, "_open_rows", lambda dataset: names[dataset.name])
        datasets = zip(names, splits_and_texts, strict=True)
        return Documents(tuple(Dataset(n, split=s) for n, (s, _) in datasets)), sources

    return make


def found(spec, tmp_path):
    """The documents of local files, read through a dataset."""
    documents = parse_source(spec).find(Reading(tmp_path / "read"), "").documents
    return [document for _, document in documents.read(0, len(documents))]


@pytest.mark.parametrize(
    ("text", "key"),  # what `printf TEXT | b2sum -l 64` prints
    [
        ("abc", "d8bb14d833d59559"),
        ("json/decoder.py", "1d2b2a9a82b8610d"),
        ("日本", "e83335cfe1549b3a"),
        ("a", "40f89e395b66422f"),
    ],
)
def test_split_is_the_same_everywhere(text, key):
    assert split_key(text) == key
    share = int(key[:8], 16)
    assert split_of(key, (share + 1) / 2**32) == "validation"
    assert split_of(key, (share - 1) / 2**32) == "train"


def test_the_share_is_kept_and_a_larger_one_holds_out_more():
    keys = [split_key(f"text {i}") for i in range(4000)]
    before = set()
    for share in (0.01, 0.05, 0.3, 0.9):
        held_out = {key for key in keys if split_of(key, share) == "validation"}
        assert len(held_out) / len(keys) == pytest.approx(share, abs=0.03)
        assert before < held_out
        before = held_out


def test_only_the_start_of_a_text_counts():
    start = "x" * documents_module.KEY_CHARACTERS
    assert split_key(start) == split_key(start + "y") != split_key(start[:-1] + "y")


def test_the_same_text_has_the_same_split_whatever_the_file(tmp_path):
    texts = [f"Text {i}: naïve 日本\n" for i in range(40)]
    lines = "".join(json.dumps({"story": text, "id": 7}) + "\n" for text in reversed(texts))
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    for i, text in enumerate(texts):
        (tmp_path / "texts").mkdir(exist_ok=True)
        (tmp_path / "texts" / f"{i}.txt").write_text(text, encoding="utf-8")
    one = found(f"text:{tmp_path}/rows.jsonl.gz,field=story", tmp_path)
    other = found(f"text:{tmp_path}/texts", tmp_path)
    keys = [{d.text: d.split_key for d in documents} for documents in (one, other)]
    assert keys[0] == keys[1] == {text: split_key(text) for text in texts}


def test_removing_documents_moves_no_other(tmp_path):
    texts = {f"{i}.txt": f"text {i}" for i in range(100)}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)

    def splits():
        return {d.text: split_of(d.split_key, 0.3) for d in found(f"text:{tmp_path}", tmp_path)}

    first = splits()
    for i in range(0, 100, 2):
        (tmp_path / f"{i}.txt").unlink()
    (tmp_path / "another.txt").write_text("another text")
    again = splits()
    assert len(first) == 100 and set(first.values()) == {"train", "validation"}
    assert len(again) == 51
    assert {text: split for text, split in again.items() if text in first}.items() <= first.items()


def test_no_text_is_in_both_splits_also_where_it_is_repeated():
    rule = SplitRule(0.5)
    texts = [f"text {i % 50}" for i in range(200)]
    parts = [part for t in texts for part in rule.parts("", Document(t, split_key(t)))]
    splits = {name: {d.text for n, d in parts if n == name} for name in ("train", "validation")}
    assert len(parts) == 200
    assert splits["train"] and splits["validation"]
    assert not splits["train"] & splits["validation"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("aaaa\nbbbb\ncccc\n", 10),  # the nearest line end
        ("x" * 100, 80),  # no line end
        ("x\n" + "x" * 98, 80),  # the only line end is far away
        ("x" * 99 + "\n", 80),  # a line end that would leave nothing
        ("x" * 90 + "\n" + "x" * 9, 91),
        ("\n" * 100, 80),
        ("x", 1),
        ("", 0),
    ],
)
def test_cut_at_line_end(text, expected):
    train, validation = cut_at_line_end(text, 0.2)
    assert len(train) == expected
    assert train + validation == text


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5])
def test_a_cut_document_has_a_part_in_each_split(share):
    text = numbered_lines(1000)
    document = Document(text, split_key(text), "group", ends=False)
    parts = list(SplitRule(share, cut=True).parts("", document))
    assert [split for split, _ in parts] == ["train", "validation"]
    train, validation = (part for _, part in parts)
    assert train.text + validation.text == text
    assert train.text.endswith("\n")
    assert len(validation.text) == pytest.approx(share * len(text), rel=0.1)
    assert train.ends and not validation.ends, "training is over, the document is not"
    assert train.group == validation.group == "group"


@pytest.mark.parametrize("share", [0.05, 0.26, 0.5, 0.9])
@pytest.mark.parametrize("more", [0, 1])
def test_of_a_long_document_the_end_is_validation(tmp_path, monkeypatch, share, more):
    monkeypatch.setattr(rows_module, "PIECE_BYTES", 500)
    texts = [numbered_lines(700), numbered_lines(3)] * more + [numbered_lines(500)]
    for i, text in enumerate(texts):
        (tmp_path / f"{i}.txt").write_text(text)
    spec = f"text:{tmp_path}/*.txt"
    documents = parse_source(spec).find(Reading(tmp_path / "read"), "").documents
    rows = list(documents.read(0, len(documents)))
    assert len(rows) > 3 * len(texts)
    # As if no hash ever chose one of the splits.
    monkeypatch.setattr(splits_module, "split_of", lambda key, share: "train")
    rule = choose_rule(documents, share)
    rule = SplitRule(*json.loads(json.dumps(rule)))  # as it travels to the workers
    texts_of = {"train": [""], "validation": [""]}
    for row, (split, document) in enumerate(rows):
        for name, part in rule.parts(split, document, row):
            texts_of[name][-1] += part.text
            texts_of[name] += [""] * part.ends
    train, validation = texts_of["train"][:-1], texts_of["validation"][:-1]
    assert [t + v for t, v in zip(train, validation, strict=True)] == texts
    for text, held_out in zip(texts, validation, strict=True):
        assert len(held_out) == pytest.approx(share * len(text), abs=12), "to a line"


def test_a_part_without_text_is_left_out_of_a_cut():
    (part,) = SplitRule(0.05, cut=True).parts("", Document("x", split_key("x")))
    assert part == ("train", Document("x", split_key("x")))


@pytest.mark.parametrize("cut", [False, True])
def test_the_split_of_a_dataset_goes_before_the_rule(cut):
    document = Document("some\ntext\n", split_key("some\ntext\n"))
    assert list(SplitRule(0.5, cut).parts("test", document)) == [("test", document)]


def test_the_rule_is_chosen_as_soon_as_both_splits_have_text(documents_of):
    documents, (rows,) = documents_of(("", [f"text {i}" for i in range(5000)]))
    assert choose_rule(documents, 0.5) == SplitRule(0.5)
    assert len(rows.read) <= BLOCK_ROWS


def test_the_split_of_a_dataset_ends_the_choice(documents_of):
    documents, (one, two) = documents_of(("train", ["one"] * 500), ("validation", ["two"]))
    assert choose_rule(documents, 0.5) == SplitRule(0.5)
    assert len(one.read) <= BLOCK_ROWS and two.read == []


@pytest.mark.parametrize("texts", [["only"], ["same"] * 100, ["only", " \n", "", "\t"]])
def test_documents_are_cut_where_one_split_would_stay_empty(documents_of, texts):
    for share in (0.001, 0.999):
        documents, (rows,) = documents_of(("", texts))
        assert choose_rule(documents, share) == SplitRule(share, cut=True)
        assert len(rows.read) == len(texts)


def test_both_splits_may_come_from_different_datasets(documents_of):
    texts = [f"text {i}" for i in range(100)]
    held_out = [text for text in texts if split_of(split_key(text), 0.1) == "validation"]
    kept = [text for text in texts if text not in held_out]
    documents, _ = documents_of(("", kept), ("", held_out))
    assert choose_rule(documents, 0.1) == SplitRule(0.1)


@pytest.mark.parametrize("texts", [[], [""], [" \n", "\t"], ["\u2003"] * 200])
def test_a_corpus_without_text_is_an_error(documents_of, texts):
    documents, _ = documents_of(("", texts))
    with pytest.raises(UserError, match="the corpus has no text: every document is empty"):
        choose_rule(documents, 0.05)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.5, float("nan"), float("inf")])
def test_the_share_must_leave_both_splits(documents_of, share):
    documents, (rows,) = documents_of(("", ["text"]))
    with pytest.raises(UserError, match=r"data\.validation_share=.* strictly between 0 and 1") as e:
        choose_rule(documents, share)
    assert "\n" not in str(e.value)
    assert rows.read == []


@pytest.mark.parametrize("block", [1, 3, 64])
def test_rows_are_read_by_index_across_datasets(documents_of, monkeypatch, block):
    monkeypatch.setattr(documents_module, "BLOCK_ROWS", block)
    texts = [[f"{i}/{j}" for j in range(count)] for i, count in enumerate([5, 0, 1, 7])]
    documents, sources = documents_of(*zip("abcd", texts, strict=True))
    everything = [(split, text) for split, part in zip("abcd", texts, strict=True) for text in part]
    assert len(documents) == 13
    for start in range(14):
        for stop in range(start, 16):
            for source in sources:
                source.read.clear()
            rows = [(split, d.text) for split, d in documents.read(start, stop)]
            assert rows == everything[start:stop]
            assert sum(len(source.read) for source in sources) == len(rows)
