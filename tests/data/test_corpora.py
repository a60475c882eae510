import os

import numpy as np
import pytest

from cartesian_moe_jax.data.corpora import Document, parse_corpus
from cartesian_moe_jax.data.splits import cut_at_line_end, split_documents, split_of
from cartesian_moe_jax.errors import UserError
from tests.packing import numbered_lines


def write(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))


def names(spec):
    return [document.name for document in parse_corpus(spec).documents()]


def test_python_stdlib_is_the_sources_without_tests():
    found = names("python_stdlib")
    assert found == sorted(found)
    assert len(found) > 300
    assert "json/decoder.py" in found
    folders = {part for name in found for part in name.split("/")[:-1]}
    assert not folders & {"test", "tests", "idle_test", "site-packages", "dist-packages"}


def test_python_stdlib_takes_no_argument():
    with pytest.raises(UserError, match="takes no argument"):
        parse_corpus("python_stdlib:3.12")


def test_text_finds_files_folders_and_globs(tmp_path):
    write(tmp_path, {"a.txt": "A", "b.md": "B", "deep/c.txt": "C\r\n", "deep/d.TXT": "D"})
    assert names(f"text:{tmp_path}/a.txt") == ["a.txt"]
    assert names(f"text:{tmp_path}") == ["a.txt", "deep/c.txt", "deep/d.TXT"]
    assert names(f"text:{tmp_path}/*") == ["a.txt"]
    assert names(f"text:{tmp_path}/**/*.txt") == ["a.txt", "deep/c.txt"]
    # A file found twice counts once.
    both = parse_corpus(f"text: {tmp_path}/deep , {tmp_path}/")
    documents = list(both.documents())
    assert documents == [Document("c.txt", "C\r\n"), Document("d.TXT", "D"), Document("a.txt", "A")]


def test_text_names_do_not_depend_on_where_the_files_lie(tmp_path, monkeypatch):
    write(tmp_path, {"x/one/a.txt": "A", "y/one/a.txt": "A"})
    monkeypatch.chdir(tmp_path / "x")
    expected = ["one/a.txt"]
    assert names(f"text:{tmp_path}/x") == names(f"text:{tmp_path}/y/*/a.txt") == expected
    assert names("text:.") == names("text:*/*.txt") == expected


@pytest.mark.parametrize("pattern", ["missing.txt", "empty", "*.txt", "notes.md"])
def test_nothing_found_names_the_pattern(tmp_path, pattern):
    write(tmp_path, {"notes.md": "text"})
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no files found") as caught:
        names(f"text:{tmp_path}/{pattern}")
    assert f"{tmp_path}/{pattern}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_utf8_is_named_with_the_offset(tmp_path):
    write(tmp_path, {"good.txt": "fine", "latin1.txt": "caf\xe9".encode("latin-1")})
    with pytest.raises(UserError, match=r"latin1\.txt is not UTF-8 text: bad byte at offset 3"):
        names(f"text:{tmp_path}")


def test_unknown_corpus_names_the_known_ones():
    with pytest.raises(UserError, match=r"'txt'.*python_stdlib, text, tfds"):
        parse_corpus("txt:/data")
    with pytest.raises(UserError, match="needs a file, folder or glob"):
        parse_corpus("text:")


def test_fingerprint_follows_the_files(tmp_path):
    write(tmp_path, {"a.txt": "one"})
    first = parse_corpus(f"text:{tmp_path}").fingerprint()
    assert parse_corpus(f"text:{tmp_path}").fingerprint() == first
    os.utime(tmp_path / "a.txt", ns=(0, 0))
    touched = parse_corpus(f"text:{tmp_path}").fingerprint()
    write(tmp_path, {"b.txt": "two"})
    assert len({first, touched, parse_corpus(f"text:{tmp_path}").fingerprint()}) == 3


def test_documents_are_split_by_name_and_only_by_name(tmp_path):
    write(tmp_path, {f"{i}.txt": f"text {i}" for i in range(400)})
    first = {d.name: split for split, d in split_documents(parse_corpus(f"text:{tmp_path}"), 0.1)}
    assert len(first) == 400
    held_out = sum(split == "validation" for split in first.values())
    assert 20 <= held_out <= 60
    # Removing documents or changing their texts moves none of the others.
    for i in range(0, 400, 2):
        (tmp_path / f"{i}.txt").unlink()
    write(tmp_path, {"1.txt": "another text"})
    again = {d.name: split for split, d in split_documents(parse_corpus(f"text:{tmp_path}"), 0.1)}
    assert len(again) == 200
    assert again.items() <= first.items()


@pytest.mark.parametrize(
    ("name", "share_of_hash"),  # the first 32 bits that `printf NAME | sha256sum` prints
    [
        ("abc.py", 0xC4E9F202),
        ("json/decoder.py", 0x3B2E3CB3),
        ("日本.txt", 0x0E5C8464),
        ("a", 0xCA978112),
    ],
)
def test_split_is_the_same_everywhere(name, share_of_hash):
    assert split_of(name, (share_of_hash + 1) / 2**32) == "validation"
    assert split_of(name, (share_of_hash - 1) / 2**32) == "train"


def test_a_single_document_is_cut_at_a_line_end(tmp_path):
    text = numbered_lines(1000)
    write(tmp_path, {"only.txt": text, "blank.txt": " \n\n", "empty.txt": ""})
    parts = list(split_documents(parse_corpus(f"text:{tmp_path}"), 0.05))
    assert [split for split, _ in parts] == ["train", "validation"]
    train, validation = (document.text for _, document in parts)
    assert train + validation == text
    assert train.endswith("\n")
    assert len(validation) == pytest.approx(0.05 * len(text), rel=0.1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("aaaa\nbbbb\ncccc\n", 10),  # the nearest line end
        ("x" * 100, 80),  # no line end
        ("x\n" + "x" * 98, 80),  # the only line end is far away
        ("x" * 99 + "\n", 80),  # a line end that would leave nothing
        ("x", 1),
    ],
)
def test_cut_at_line_end(text, expected):
    train, validation = cut_at_line_end(text, 0.2)
    assert len(train) == expected
    assert train + validation == text


@pytest.mark.parametrize("files", [{"a.txt": ""}, {"a.txt": " \n", "b.txt": "\t"}])
def test_a_corpus_without_text_is_an_error(tmp_path, files):
    write(tmp_path, files)
    with pytest.raises(UserError, match="has no text"):
        list(split_documents(parse_corpus(f"text:{tmp_path}"), 0.05))


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_validation_share_must_leave_both_splits(share):
    with pytest.raises(UserError, match=r"data\.validation_share"):
        list(split_documents(parse_corpus("python_stdlib"), share))


@pytest.fixture(scope="module")
def prepared_tfds(tmp_path_factory):
    tfds = pytest.importorskip("tensorflow_datasets")

    class SmallTexts(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"text": tfds.features.Text(), "id": np.int64})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for number in range(10):
                yield number, {"text": f"Text {number}: é", "id": number}

    folder = tmp_path_factory.mktemp("tfds")
    builder = SmallTexts(data_dir=folder, file_format="array_record")
    builder.download_and_prepare()
    return builder.data_path


def test_tfds_reads_a_prepared_folder(prepared_tfds):
    corpus = parse_corpus(f"tfds:{prepared_tfds}")
    documents = list(corpus.documents())
    assert [d.name for d in documents] == [f"train/{i}" for i in range(10)]
    assert sorted(d.text for d in documents) == [f"Text {i}: é" for i in range(10)]
    assert corpus.fingerprint() == parse_corpus(corpus.spec).fingerprint()


def test_tfds_names_what_is_missing_and_what_is_there(prepared_tfds, tmp_path):
    from cartesian_moe_jax.data.corpora import PreparedTfds

    with pytest.raises(UserError, match=r"no text field 'story'; present: .*text"):
        list(PreparedTfds(str(prepared_tfds), text_field="story").documents())
    with pytest.raises(UserError, match=r"no split 'test'; present: train"):
        list(PreparedTfds(str(prepared_tfds), source_split="test").documents())
    with pytest.raises(UserError, match=r"no dataset_info\.json"):
        list(parse_corpus(f"tfds:{tmp_path}").documents())
