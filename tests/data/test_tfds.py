import importlib.util
import json
import os
import shutil
import socket
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core.data_sources.base import BaseDataSource

from cartesian_moe_jax.data import parse_source
from cartesian_moe_jax.data.documents import Documents, split_key
from cartesian_moe_jax.data.sources import catalogue
from cartesian_moe_jax.data.sources.source import Reading
from tests.messages import message_of


class SmallTexts(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        text = tfds.features.Text()
        features = tfds.features.FeaturesDict({"text": text, "site": text, "id": np.int64})
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples("Train", 10),
            "test": self._generate_examples("Test", 4),
        }

    def _generate_examples(self, name, count):
        for number in range(count):
            site = "Wikipedia (en)" if number % 2 else "web"
            yield number, {"text": f"{name} {number}: é", "site": site, "id": number}


class HeldOutTexts(SmallTexts):
    def _split_generators(self, dl_manager):
        counts = {"test": 3, "train": 6, "validation": 2}
        return {name: self._generate_examples(name, count) for name, count in counts.items()}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """No test may reach it."""

    def refuse(*arguments, **options):
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data_dir in which both datasets are prepared."""
    tfds.disable_progress_bar()
    folder = tmp_path_factory.mktemp("tfds")
    for builder in (SmallTexts, HeldOutTexts):
        builder(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


@pytest.fixture
def small(prepared):
    return f"tfds:{prepared}/small_texts/1.0.0"


@pytest.fixture
def held_out(prepared):
    return f"tfds:{prepared}/held_out_texts/1.0.0"


def found(spec, split="", data_dir=""):
    """The documents of a source, with the split of each."""
    reading = Reading(Path("/no/such/folder"), tfds_dir=str(data_dir))
    documents = parse_source(spec).find(reading, split).documents
    # Workers open them from their description.
    documents = Documents.from_json(json.loads(json.dumps(documents.to_json())))
    return list(documents.read(0, len(documents)))


def texts(spec, split="", data_dir=""):
    return [(name, document.text) for name, document in found(spec, split, data_dir)]


def numbered(split, name, count, start=0):
    return [(split, f"{name} {i}: é") for i in range(start, start + count)]


def test_without_a_validation_split_documents_go_by_their_hash(small):
    documents = found(small)
    assert [(split, d.text) for split, d in documents] == numbered("", "Train", 10)
    assert all(d.split_key == split_key(d.text) and d.ends for _, d in documents)


@pytest.mark.parametrize("name", ["small_texts", "small_texts:1.0.0", "small_texts:1.*.*"])
def test_a_prepared_dataset_has_a_catalogue_name(prepared, small, name):
    assert texts(f"tfds:{name}", data_dir=prepared) == texts(small)


def test_train_and_validation_of_a_dataset_are_used_as_such(held_out):
    expected = [*numbered("train", "train", 6), *numbered("validation", "validation", 2)]
    assert texts(held_out) == expected


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", numbered("train", "train", 6)),
        ("test", numbered("test", "test", 3)),
        ("test[1:]", numbered("test[1:]", "test", 2, 1)),
        (
            "all",
            [
                *numbered("all", "test", 3),
                *numbered("all", "train", 6),
                *numbered("all", "validation", 2),
            ],
        ),
    ],
)
def test_all_documents_may_go_to_one_split(held_out, split, expected):
    assert sorted(texts(held_out, split)) == sorted(expected)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("train", numbered("", "Train", 10)),
        ("test", numbered("", "Test", 4)),
        ("train[:20%]", numbered("", "Train", 2)),
        ("train[8:]+test", [*numbered("", "Train", 2, 8), *numbered("", "Test", 4)]),
        ("train[:1]+train[-1:]", [*numbered("", "Train", 1), *numbered("", "Train", 1, 9)]),
        ("all", [*numbered("", "Train", 10), *numbered("", "Test", 4)]),
    ],
)
def test_a_split_expression_is_what_is_read(small, expression, expected):
    assert sorted(texts(f"{small},split={expression}")) == sorted(expected)
    assert {split for split, _ in texts(f"{small},split={expression}", "train")} == {"train"}


def test_a_split_expression_goes_before_the_splits_of_the_dataset(held_out):
    assert texts(f"{held_out},split=train") == numbered("", "train", 6)


def test_the_field_is_the_text(small):
    assert {text for _, text in texts(f"{small},field=site")} == {"web", "Wikipedia (en)"}


def test_where_divides_the_documents(small):
    documents = found(f"{small},where=site:Wikipedia (en)")
    assert len(documents) == 10, "one packing serves every value"
    assert [d.group for _, d in documents[:3]] == ["web", "Wikipedia (en)", "web"]
    assert [d.group for _, d in found(f"{small},where=id:3")] == [str(i) for i in range(10)]


@pytest.mark.parametrize(
    ("options", "split", "words"),
    [
        (",split=valid", "", "has no split 'valid'; present: train, test, all"),
        (",split=train+valid[:3]", "", "has no split 'valid'; present: train, test, all"),
        ("", "validation", "has no split 'validation'; present: train, test, all"),
        (",field=story", "", "has no field 'story'; present: "),
        (",where=domain:web", "", "has no field 'domain'; present: "),
    ],
)
def test_what_is_missing_is_named_with_what_is_there(small, options, split, words):
    message = message_of(found, small + options, split)
    assert f"corpus '{small}{options}' " in message
    assert words in message
    if "field" in words:
        assert set(message.rpartition(": ")[2].split(", ")) == {"text", "site", "id"}


@pytest.mark.parametrize("rows", ["train[:abc]", "train[", "train[50:60]", "train[:10%"])
def test_a_wrong_split_expression_is_one_line(small, rows):
    message = message_of(found, f"{small},split={rows}")
    assert f"cannot read split={rows!r}: " in message


def test_a_fingerprint_follows_the_files_and_what_is_read(small, tmp_path):
    folder = tmp_path / "small_texts" / "1.0.0"
    shutil.copytree(small.removeprefix("tfds:"), folder)

    def fingerprint(options=""):
        return parse_source(f"tfds:{folder}{options}").fingerprint(Reading(tmp_path))

    seen = [fingerprint(o) for o in ("", ",field=site", ",split=test", ",where=site:web")]
    assert fingerprint(",where=site:other") == seen[3]
    assert fingerprint(",name=mine") == seen[0]
    os.utime(next(folder.glob("*train*")), ns=(0, 0))
    seen.append(fingerprint())
    assert all(seen.count(value) == 1 for value in seen)
    assert parse_source(small).size() == 0


def test_a_dataset_in_another_format_names_the_command_that_converts_it(small, tmp_path):
    folder = tmp_path / "small_texts" / "1.0.0"
    shutil.copytree(small.removeprefix("tfds:"), folder)
    info = json.loads((folder / "dataset_info.json").read_text())
    assert info["fileFormat"] == "array_record"
    (folder / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    for spec, data_dir in ((f"tfds:{folder}", ""), ("tfds:small_texts", tmp_path)):
        message = message_of(found, spec, "", data_dir)
        assert message.startswith(f"corpus '{spec}' is prepared as tfrecord")
        assert "convert_format" in message
        assert f"={folder} " in message
        assert "--out_file_format=array_record" in message


def test_a_folder_must_be_that_of_a_version(prepared, tmp_path):
    message = message_of(found, f"tfds:{prepared}/small_texts")
    assert message.startswith(f"corpus 'tfds:{prepared}/small_texts': no dataset_info.json in ")
    assert "name the folder of one version" in message
    assert "no dataset_info.json" in message_of(found, f"tfds:{tmp_path}")


def test_a_place_must_be_named_and_local():
    assert "needs a catalogue name or the folder" in message_of(found, "tfds:")
    message = message_of(found, "tfds:gs://bucket/lm1b/1.1.0")
    assert "gs://bucket/lm1b/1.1.0 must be local" in message
    assert "gs://bucket must be local" in message_of(found, "tfds:lm1b", "", "gs://bucket")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lm1bb", ["in the tensorflow-datasets catalogue of ", "did you mean 'lm1b'?"]),
        ("wikipeda/20230601.en", ["did you mean 'wikipedia'"]),
        (
            "wikipedia/20230601.english",
            ["no config '20230601.english'", "did you mean", "'20230601.en"],
        ),
        ("c4/english", ["no config 'english'; it has 5, such as en, "]),
        ("lm1b/en", ["no config 'en'; it has none (a version is named as in lm1b:1.1.0)"]),
        ("lm1b/1.1.0", ["no config '1.1.0'; it has none (a version is named as in lm1b:1.1.0)"]),
        ("lm1b:9.9.9", ["lm1b cannot be loaded at version 9.9.9, only: 1.1.0"]),
        ("wikipedia/20230601.en:7.0.0", ["cannot be loaded at version 7.0.0, only: 1.0.0"]),
        ("lm1b:9", ["lm1b:9"]),
        ("/no/such/folder/1.0.0", ["is neither a folder nor"]),
        ("./folder", ["is neither a folder nor"]),
        ("two words", ["is neither a folder nor"]),
        ("huggingface:some/name", ["is neither a folder nor"]),
        ("huggingface:name", ["is neither a folder nor"]),
    ],
)
def test_an_unknown_name_is_one_line_with_the_nearest(tmp_path, name, words):
    start = time.monotonic()
    message = message_of(found, f"tfds:{name}", "", tmp_path)
    assert message.startswith(f"corpus 'tfds:{name}'")
    assert all(word in message for word in words), message
    assert len(message) < 400
    assert time.monotonic() - start < 5


NAMES = pytest.mark.parametrize("name", ["lm1b", "wikipedia/20230601.en", "c4/en"])


def check_command(message, name, folder):
    assert message.startswith(f"corpus 'tfds:{name}' is not prepared in {folder}, ")
    code = message.partition('python -c "')[2].partition('"')[0]
    compile(code, "command", "exec")
    assert f"tfds.builder('{name}', data_dir='DIR', file_format='array_record')" in code
    assert "--config.data.tfds_dir=DIR" in message
    assert list(folder.iterdir()) == []


@NAMES
def test_without_tensorflow_the_command_to_run_elsewhere_is_named_at_once(
    tmp_path, monkeypatch, name
):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        catalogue.importlib.util, "find_spec", lambda n: None if n == "tensorflow" else find_spec(n)
    )
    start = time.monotonic()
    message = message_of(found, f"tfds:{name}", "", tmp_path)
    assert time.monotonic() - start < 5
    assert "(TensorFlow is not installed)" in message
    check_command(message, name, tmp_path)


@NAMES
def test_without_network_the_command_to_run_elsewhere_is_named_at_once(tmp_path, monkeypatch, name):
    monkeypatch.setattr(catalogue.importlib.util, "find_spec", lambda n: "found")
    start = time.monotonic()
    message = message_of(found, f"tfds:{name}", "", tmp_path)
    assert time.monotonic() - start < 5
    assert "(no network: storage.googleapis.com Network is unreachable)" in message
    check_command(message, name, tmp_path)


@pytest.mark.parametrize("error", [ValueError("first\nsecond"), RuntimeError(), OSError("x\ny")])
def test_what_a_dataset_fails_with_is_one_line(tmp_path, monkeypatch, error):
    monkeypatch.setattr(catalogue, "_why_not_here", lambda: "")

    def fail(self, **options):
        raise error

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    message = message_of(found, "tfds:lm1b", "", tmp_path)
    first = str(error).partition("\n")[0] or "RuntimeError"
    assert message == f"corpus 'tfds:lm1b' could not be prepared: {first}"


def prepare(builder, **options):
    """Writes what preparing writes, but the rows: what is there is told by its description."""
    names = {"lm1b": ["train", "test"], "wikipedia": ["train"], "c4": ["train", "validation"]}
    template = tfds.core.ShardedFileTemplate(
        data_dir=builder.data_path,
        dataset_name=builder.name,
        filetype_suffix=builder.info.file_format.file_suffix,
    )
    splits = [
        tfds.core.SplitInfo(name=name, shard_lengths=[5], num_bytes=500, filename_template=template)
        for name in names[builder.name]
    ]
    builder.info.set_splits(tfds.core.splits.SplitDict(splits))
    builder.data_path.mkdir(parents=True)
    builder.info.write_to_directory(builder.data_path)


@pytest.mark.parametrize(
    ("name", "splits"),
    [("lm1b", [""]), ("wikipedia/20230601.en", [""]), ("c4/en", ["train", "validation"])],
)
def test_names_of_the_catalogue_are_prepared_and_read(tmp_path, monkeypatch, name, splits):
    monkeypatch.setattr(catalogue, "_why_not_here", lambda: "")

    # The __getitems__ of tensorflow-datasets' stand-in lacks an argument, and fails.
    def one_by_one(self, keys):
        return [self[key] for key in keys]

    monkeypatch.setattr(BaseDataSource, "__getitems__", one_by_one)
    with (
        tfds.testing.mock_data(num_examples=5, data_dir=str(tmp_path)),
        monkeypatch.context() as inside,  # ends before the stand-in does
    ):
        inside.setattr(tfds.core.DatasetBuilder, "download_and_prepare", prepare)
        documents = found(f"tfds:{name}", data_dir=tmp_path)
        inside.setattr(catalogue, "_prepare", None)  # once is enough
        assert found(f"tfds:{name}", data_dir=tmp_path) == documents
        everything = texts(f"tfds:{name}", "train", tmp_path)
    assert [split for split, _ in documents] == [split for split in splits for _ in range(5)]
    assert all(document.text for _, document in documents)
    assert [split for split, _ in everything] == ["train"] * 5
