import dataclasses
import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cartesian_moe_jax.data import parse_source
from cartesian_moe_jax.data.documents import Documents, split_key
from cartesian_moe_jax.data.sources import local_text, rows
from cartesian_moe_jax.data.sources.files import find_files
from cartesian_moe_jax.data.sources.local_text import read_files
from cartesian_moe_jax.data.sources.rows import Fields
from cartesian_moe_jax.data.sources.source import Reading
from tests.messages import message_of

ROOT = Path(__file__).parents[2]
TEXTS = {f"{i:02d}.txt": f"Text {i}: naïve 日本\n" * (i + 1) for i in range(12)}


def write(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())


def json_lines(*values):
    return "".join(json.dumps(value) + "\n" for value in values)


def read(tmp_path, *, fields=("text", ""), skip_broken=False, workers=1, progress=lambda n: None):
    return read_files(
        find_files((str(tmp_path / "source"),)),
        Fields(*fields),
        tmp_path / "read",
        skip_broken=skip_broken,
        workers=workers,
        progress=progress,
    )


def documents_of(found):
    documents = Documents(found.datasets)
    return [document for _, document in documents.read(0, len(documents))]


def texts_of(found):
    return [document.text for document in documents_of(found)]


def files_below(folder):
    """Every file, with its content and the time of its last change."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


@pytest.fixture
def read_paths(monkeypatch):
    """The names of the files that were read (by this process), in order."""
    names, read_rows = [], local_text.read_rows

    def noted(path, *arguments):
        names.append(path.name)
        return read_rows(path, *arguments)

    monkeypatch.setattr(local_text, "read_rows", noted)
    return names


@pytest.fixture
def small(monkeypatch):
    """Bundles of a few files, and datasets of a few texts."""
    monkeypatch.setattr(local_text, "BUNDLE_BYTES", 400)
    monkeypatch.setattr(local_text, "DATASET_BYTES", 100)


def test_what_is_written_is_a_tensorflow_dataset(tmp_path):
    import tensorflow_datasets as tfds

    write(tmp_path / "source", TEXTS)
    (dataset,) = read(tmp_path).datasets
    builder = tfds.builder_from_directory(dataset.name)
    assert builder.info.file_format.value == "array_record"
    assert set(builder.info.features) == {"ends", "group", "split_key", "text"}
    assert builder.info.splits["train"].num_examples == len(TEXTS)
    assert builder.info.splits["train"].num_bytes > sum(map(len, TEXTS.values()))
    source = builder.as_data_source("train")
    assert [row["text"].decode() for row in source] == list(TEXTS.values())
    assert [row["split_key"].decode() for row in source] == [split_key(t) for t in TEXTS.values()]
    assert all(row["ends"] and row["group"] == b"" for row in source)
    assert source[3]["text"].decode() == TEXTS["03.txt"]
    # A part of it is a dataset as any other.
    found = parse_source(f"tfds:{dataset.name},split=train[:25%]").find(Reading(tmp_path), "")
    assert len(found.documents) == 3


def test_documents_keep_the_order_of_files_and_lines(tmp_path):
    lines = [f"line {i}" for i in range(300)]
    write(
        tmp_path / "source",
        {
            "b.jsonl": json_lines(*({"text": text} for text in lines)),
            "c.txt.gz": gzip.compress(b"compressed"),
            "a/z.txt": "first",
        },
    )
    assert texts_of(read(tmp_path)) == ["first", *lines, "compressed"]


def test_files_are_read_in_bundles_and_bundles_make_several_datasets(tmp_path, small):
    write(tmp_path / "source", TEXTS)
    found = read(tmp_path)
    bundles = {
        Path(dataset.name).relative_to(tmp_path / "read").parts[0] for dataset in found.datasets
    }
    assert len(found.datasets) > len(bundles) > 2
    assert texts_of(found) == list(TEXTS.values())
    lengths = [len(Documents((dataset,))) for dataset in found.datasets]
    assert sum(lengths) == len(TEXTS) and min(lengths) > 0
    documents = Documents(found.datasets)
    for row in range(len(TEXTS)):
        ((_, document),) = documents.read(row, row + 1)
        assert document.text == TEXTS[f"{row:02d}.txt"]


def test_bundles_hold_as_many_files_as_fit(tmp_path, monkeypatch):
    monkeypatch.setattr(local_text, "BUNDLE_BYTES", 10)
    sizes = [4, 4, 2, 1, 30, 10, 0, 5, 6]
    write(tmp_path / "source", {f"{i}.txt": "x" * size for i, size in enumerate(sizes)})
    bundles = list(local_text._bundles(find_files((str(tmp_path / "source"),))))
    assert [[file.size for file in bundle] for bundle in bundles] == [
        [4, 4, 2],
        [1],
        [30],
        [10, 0],
        [5],
        [6],
    ]
    assert list(local_text._bundles([])) == []


def test_the_sizes_of_a_bundle_are_not_added_up_for_each_file():
    additions = []

    class Size(int):
        def __add__(self, other):
            additions.append(1)
            return Size(int(self) + int(other))

        __radd__ = __add__

    files = [local_text.InputFile(f"{i}", Size(0), 0) for i in range(1000)]
    assert list(local_text._bundles(files)) == [files]
    assert 1000 <= len(additions) <= 3000


def test_long_texts_are_kept_in_pieces(tmp_path, small, monkeypatch):
    monkeypatch.setattr(rows, "PIECE_BYTES", 100)
    text = "".join(f"line {i}\n" for i in range(200))
    write(tmp_path / "source", {"a.txt": text, "b.jsonl": json_lines({"text": text})})
    documents = documents_of(read(tmp_path))
    assert len(documents) > 10
    assert "".join(document.text for document in documents) == text * 2
    assert sum(document.ends for document in documents) == 2
    assert len({document.split_key for document in documents}) == 1


def test_reading_again_does_no_work(tmp_path, small, read_paths):
    write(tmp_path / "source", TEXTS)
    first = read(tmp_path)
    assert read_paths == list(TEXTS)
    before, counts = files_below(tmp_path / "read"), []
    read_paths.clear()
    assert read(tmp_path, progress=counts.append) == first
    assert read_paths == []
    assert files_below(tmp_path / "read") == before
    assert sum(counts) == sum(len(text.encode()) for text in TEXTS.values())


def test_only_the_bundle_of_a_changed_file_is_read_anew(tmp_path, small, read_paths):
    write(tmp_path / "source", TEXTS)
    first = read(tmp_path)
    bundles = list(local_text._bundles(find_files((str(tmp_path / "source"),))))
    (changed,) = [bundle for bundle in bundles if any("05.txt" in f.path for f in bundle)]
    read_paths.clear()
    path = tmp_path / "source" / "05.txt"
    path.write_text(TEXTS["05.txt"].replace("5", "6"))  # the size stays
    os.utime(path, ns=(1, 1))
    again = read(tmp_path)
    assert read_paths == [Path(file.path).name for file in changed]
    assert 0 < len(set(first.datasets) - set(again.datasets)) < len(first.datasets)
    assert texts_of(again)[5] == TEXTS["05.txt"].replace("5", "6")
    assert texts_of(again)[6:] == texts_of(first)[6:]


@pytest.mark.parametrize(
    "options", [{"fields": ("other", "")}, {"fields": ("text", "other")}, {"skip_broken": True}]
)
def test_what_is_read_of_a_line_makes_other_datasets(tmp_path, read_paths, options):
    write(tmp_path / "source", {"a.jsonl": json_lines({"text": "one", "other": "two"})})
    first = read(tmp_path)
    again = read(tmp_path, **options)
    assert read_paths == ["a.jsonl"] * 2
    assert first.datasets != again.datasets
    assert texts_of(again) == (["two"] if options.get("fields") == ("other", "") else ["one"])


def test_groups_are_kept_also_where_they_are_no_text(tmp_path):
    lines = '{"text": "a", "set": "Wikipedia (en)"}\n{"text": "b\\ud800", "set": "half \\ud800"}\n'
    write(tmp_path / "source", {"a.jsonl": lines})
    documents = documents_of(read(tmp_path, fields=("text", "set")))
    assert [(d.text, d.group) for d in documents] == [("a", "Wikipedia (en)"), ("b?", "half ?")]


def test_a_broken_line_is_refused_and_nothing_of_its_bundle_is_left(tmp_path, small):
    good = {"a.txt": "text " * 200}
    lines = json_lines({"text": "good"}) * 100 + "{broken\n"
    write(tmp_path / "source", good | {"b.jsonl": lines})
    message = message_of(read, tmp_path)
    assert message.startswith(f"{tmp_path}/source/b.jsonl:101 is not a JSON object with a text: ")
    assert message.endswith("; --config.data.broken_lines=skip counts such lines")
    (kept,) = (tmp_path / "read").iterdir()
    assert json.loads((kept / "bundle.json").read_text())["datasets"] != []


def test_broken_lines_are_skipped_and_counted(tmp_path, small):
    lines = [json.dumps({"text": f"line {i}"}) for i in range(500)]
    lines[250] = lines[250][:-3]
    write(tmp_path / "source", {"a.jsonl": "\n".join(lines), "b.jsonl": '{"text": "b"}\n3\n4'})
    for found in (read(tmp_path, skip_broken=True), read(tmp_path, skip_broken=True)):
        assert found.broken_lines == 3
        assert found.first_broken.startswith(f"{tmp_path}/source/a.jsonl:251 is not a JSON object")
        assert texts_of(found) == [f"line {i}" for i in range(500) if i != 250] + ["b"]


def test_a_wrong_field_is_an_error_also_where_broken_lines_are_skipped(tmp_path):
    write(tmp_path / "source", {"a.jsonl": json_lines({"story": "one"})})
    message = message_of(read, tmp_path, skip_broken=True)
    assert message == f"{tmp_path}/source/a.jsonl:1 has no field 'text'; present: story"
    assert list((tmp_path / "read").iterdir()) == []


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("c.txt", b"good\n" * 99 + b"\xff", "is not UTF-8 text: bad byte at offset 495"),
        ("c.txt.gz", gzip.compress(b"text" * 500)[:-9], "is a corrupt .gz file: "),
        ("c.jsonl.zst", b"no such file", "is a corrupt .zst file: "),
    ],
    ids=["text", "gz", "zst"],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, small, workers, name, content, words):
    write(tmp_path / "source", TEXTS | {name: content})
    message = message_of(read, tmp_path, workers=workers)
    assert message.startswith(f"{tmp_path}/source/{name} {words}")
    # Bundles that were finished stay, to go on from.
    if workers == 1:
        assert all((folder / "bundle.json").is_file() for folder in (tmp_path / "read").iterdir())


def test_files_without_documents_make_no_dataset(tmp_path, small, read_paths):
    write(tmp_path / "source", {"a.txt": "", "b.jsonl": "\n\n", "c.txt.gz": gzip.compress(b"")})
    found = read(tmp_path)
    assert found == ((), 0, "")
    assert documents_of(found) == []
    assert Documents(found.datasets).bytes_per_row() == 0
    read_paths.clear()
    assert read(tmp_path) == found
    assert read_paths == []


def test_empty_files_among_others_do_not_matter(tmp_path, small):
    write(tmp_path / "source", TEXTS | {"00a.txt": "", "05a.txt": "", "99.jsonl": ""})
    assert texts_of(read(tmp_path)) == list(TEXTS.values())


def test_workers_give_the_same_as_this_process(tmp_path, monkeypatch):
    # Workers do not see DATASET_BYTES as it is patched here, so that it stays.
    monkeypatch.setattr(local_text, "BUNDLE_BYTES", 400)
    broken = {"05.jsonl": '{"text": "good"}\nbroken\n', "07.jsonl": "broken\n"}
    write(tmp_path / "one" / "source", TEXTS | broken)
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "source").symlink_to(tmp_path / "one" / "source")
    one = read(tmp_path / "one", skip_broken=True)
    counts = []
    two = read(tmp_path / "two", skip_broken=True, workers=2, progress=counts.append)
    assert len(one.datasets) > 3
    assert documents_of(two) == documents_of(one)
    assert (two.broken_lines, one.broken_lines) == (2, 2)
    assert two.first_broken.endswith(
        "05.jsonl:2 is not a JSON object with a text: Expecting value: line 1 column 1 (char 0)"
    )
    assert sum(counts) == sum(f.stat().st_size for f in (tmp_path / "one/source").iterdir())


def test_progress_adds_up_to_the_size_of_the_files(tmp_path, monkeypatch):
    monkeypatch.setattr(local_text, "REPORT_BYTES", 1000)
    content = json_lines(*({"text": f"line {i} " * 10} for i in range(300)))
    write(
        tmp_path / "source", {"a.jsonl": content, "b.txt.gz": gzip.compress(b"text"), "c.txt": ""}
    )
    counts = []
    read(tmp_path, progress=counts.append)
    assert len(counts) > 3
    assert min(counts) >= 0
    assert sum(counts) == sum(f.stat().st_size for f in (tmp_path / "source").iterdir())


KILLED = """
import os, signal, sys
from cartesian_moe_jax.data.sources import local_text
from cartesian_moe_jax.data.sources.files import find_files
from cartesian_moe_jax.data.sources.rows import Fields
local_text.BUNDLE_BYTES, local_text.DATASET_BYTES = 400, 100
read_rows, seen = local_text.read_rows, []
def killed(*arguments):
    for row in read_rows(*arguments):
        if len(seen) == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        seen.append(row)
        yield row
local_text.read_rows = killed
local_text.read_files(
    find_files((sys.argv[1] + "/source",)), Fields(), local_text.Path(sys.argv[1] + "/read"),
    skip_broken=False, workers=1, progress=lambda count: None,
)
"""


@pytest.mark.parametrize("after", [0, 5, 11])
def test_reading_that_was_killed_goes_on_where_it_was(tmp_path, small, read_paths, after):
    write(tmp_path / "source", TEXTS)
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(after)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    finished = list((tmp_path / "read").glob("*/bundle.json"))
    found = read(tmp_path)
    bundles = list(local_text._bundles(find_files((str(tmp_path / "source"),))))
    left = [file for bundle in bundles[len(finished) :] for file in bundle]
    assert read_paths == [Path(file.path).name for file in left]
    assert (len(finished) > 0) == (after > 0)
    assert texts_of(found) == list(TEXTS.values())
    leftovers = [p for p in (tmp_path / "read").rglob("*") if "incomplete" in p.name]
    assert leftovers == []


def test_a_failure_of_the_file_system_names_its_reason(tmp_path):
    write(tmp_path / "source", TEXTS)
    (tmp_path / "read").write_text("a file in place of the folder")
    with pytest.raises(OSError) as caught:
        read(tmp_path)
    assert caught.value.strerror == "Not a directory"


def test_documents_can_be_opened_by_another_process(tmp_path):
    write(tmp_path / "source", TEXTS)
    documents = Documents(read(tmp_path).datasets, "text", "group")
    copy = Documents.from_json(json.loads(json.dumps(documents.to_json())))
    assert copy == dataclasses.replace(documents, lengths=(len(documents),))
    assert [d.text for _, d in copy.read(0, 99)] == list(TEXTS.values())
    assert documents.bytes_per_row() > 10


def test_reading_many_datasets_keeps_no_files_open(tmp_path, small):
    write(tmp_path / "source", TEXTS)
    documents = Documents(read(tmp_path).datasets * 20)
    before = len(os.listdir("/proc/self/fd"))
    assert sum(1 for _ in documents.read(0, len(documents))) == 20 * len(TEXTS)
    assert len(os.listdir("/proc/self/fd")) <= before + 2
