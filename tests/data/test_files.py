import os
import sys
from pathlib import Path

import pytest

from cartesian_moe_jax.data import parse_source
from cartesian_moe_jax.data.sources.files import find_files, stdlib_files
from cartesian_moe_jax.data.sources.source import Reading
from tests.messages import message_of

pytest_plugins = ["tests.stand_in_store"]


def write(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text of {name}\n")


def names(folder, *patterns):
    found = find_files(tuple(str(folder / pattern) for pattern in patterns))
    return [os.path.relpath(file.path, folder) for file in found]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a.txt", ["a.txt"]),
        ("", ["a.txt", "b.jsonl.gz", "deep/c.TXT.xz", "deep/d.jsonl", "deep/er/e.txt.zst"]),
        ("deep", ["deep/c.TXT.xz", "deep/d.jsonl", "deep/er/e.txt.zst"]),
        ("deep/", ["deep/c.TXT.xz", "deep/d.jsonl", "deep/er/e.txt.zst"]),
        ("deep/../deep/er", ["deep/er/e.txt.zst"]),
        ("*", ["a.txt", "b.jsonl.gz"]),
        ("*.txt", ["a.txt"]),
        ("[ab].*", ["a.txt", "b.jsonl.gz"]),
        ("deep/?.jsonl", ["deep/d.jsonl"]),
        ("*/*", ["deep/c.TXT.xz", "deep/d.jsonl"]),
        ("**/*.txt*", ["a.txt", "deep/er/e.txt.zst"]),
    ],
)
def test_files_folders_and_globs_are_found_in_order(tmp_path, pattern, expected):
    write(tmp_path, "a.txt", "notes.md", "prog.py", "b.jsonl.gz", "b.json", "x.gz", "x.txt.bz2")
    write(tmp_path, "deep/c.TXT.xz", "deep/d.jsonl", "deep/er/e.txt.zst", "deep/er/txt")
    assert names(tmp_path, pattern) == expected


def test_a_name_that_is_also_a_glob_is_the_file(tmp_path):
    write(tmp_path, "[a].txt", "a.txt")
    assert names(tmp_path, "[a].txt") == ["[a].txt"]


def test_a_file_found_twice_counts_once_where_it_was_found_first(tmp_path):
    write(tmp_path, "a.txt", "b.txt", "deep/c.txt")
    assert names(tmp_path, "deep", ".", "a.txt") == ["deep/c.txt", "a.txt", "b.txt"]
    assert names(tmp_path, "b.txt", "deep/../*.txt") == ["b.txt", "a.txt"]
    (tmp_path / "link.txt").symlink_to(tmp_path / "a.txt")
    assert names(tmp_path, "a.txt", "link.txt") == ["a.txt"]


def test_a_link_has_its_own_name_and_not_that_of_its_target(tmp_path):
    """Model hubs keep files as links to files that are named by their hashes."""
    write(tmp_path, "blobs/0a1b2c")
    (tmp_path / "train.txt").symlink_to("blobs/0a1b2c")
    (tmp_path / "gone.txt").symlink_to("blobs/gone")
    assert names(tmp_path, "") == ["train.txt"]
    (file,) = find_files((str(tmp_path / "train.txt"),))
    assert file.size == (tmp_path / "blobs" / "0a1b2c").stat().st_size


def test_files_do_not_depend_on_how_the_place_is_written(tmp_path, monkeypatch):
    write(tmp_path, "one/a.txt", "one/b.txt")
    expected = find_files((str(tmp_path / "one"),))
    assert [Path(file.path) for file in expected] == [
        tmp_path / "one/a.txt",
        tmp_path / "one/b.txt",
    ]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for place in (".", "one", "one/*.txt", "./one/../one", "~/one", "~/one/?.txt"):
        assert find_files((place,)) == expected, place


@pytest.mark.parametrize(
    "pattern", ["missing.txt", "empty", "*.txt", "notes.md", "prog.py", "missing/**"]
)
def test_nothing_found_names_the_pattern_and_what_is_read(tmp_path, pattern):
    write(tmp_path, "notes.md", "prog.py")
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder.txt").mkdir()
    message = message_of(find_files, (str(tmp_path / pattern),))
    assert message.startswith(f"corpus pattern '{tmp_path / pattern}': no files found")
    assert ".txt, .jsonl, or with .gz, .xz, .zst behind it" in message


def test_one_pattern_of_several_that_finds_nothing_is_an_error(tmp_path):
    write(tmp_path, "a.txt")
    message = message_of(find_files, (f"{tmp_path}/a.txt", f"{tmp_path}/b.txt"))
    assert f"{tmp_path}/b.txt" in message


def test_a_place_that_the_system_refuses_is_one_line(tmp_path):
    place = str(tmp_path / ("x" * 300))
    assert message_of(find_files, (place,)) == f"{place} cannot be read: File name too long"


def test_places_of_a_corpus_are_separated_by_commas(tmp_path):
    write(tmp_path, "a.txt", "b c.txt", "deep/d.txt")
    source = parse_source(f"text: {tmp_path}/deep , {tmp_path}/b c.txt,")
    assert [Path(f.path).name for f in source.files] == ["d.txt", "b c.txt"]
    assert source.size() == sum(file.size for file in source.files) > 0
    assert "needs a file, folder or glob" in message_of(parse_source("text: , ").size)


def fingerprint(spec, **reading):
    return parse_source(spec).fingerprint(Reading(Path(), **reading))


def test_a_fingerprint_follows_the_files_and_how_they_are_read(tmp_path):
    write(tmp_path, "a.txt", "other.md")
    spec = f"text:{tmp_path}"
    seen = [fingerprint(spec)]
    assert fingerprint(spec) == fingerprint(f"{spec},name=mine") == seen[0]
    assert fingerprint(spec, workers=3) == seen[0]
    os.utime(tmp_path / "a.txt", ns=(0, 0))
    seen.append(fingerprint(spec))
    (tmp_path / "a.txt").write_text("longer than it was\n")
    os.utime(tmp_path / "a.txt", ns=(0, 0))
    seen.append(fingerprint(spec))
    write(tmp_path, "b.txt")
    seen += [
        fingerprint(spec),
        fingerprint(f"{spec},field=story"),
        fingerprint(f"{spec},where=a:b"),
    ]
    seen.append(fingerprint(spec, skip_broken=True))
    assert all(seen.count(value) == 1 for value in seen)
    # One packing serves every value of the field.
    assert fingerprint(f"{spec},where=a:c") == fingerprint(f"{spec},where=a:b")


def test_python_stdlib_is_the_sources_without_tests():
    files = [file.path for file in stdlib_files()]
    assert files == sorted(files)
    assert len(files) > 300
    assert any(file.endswith("/json/decoder.py") for file in files)
    root = Path(next(f for f in files if f.endswith("/json/decoder.py"))).parents[1]
    folders = {part for file in files for part in Path(file).relative_to(root).parts[:-1]}
    assert not folders & {"test", "tests", "idle_test", "site-packages", "dist-packages"}
    for file in stdlib_files()[::50]:
        text = Path(file.path).read_bytes().decode("utf-8")
        assert len(text.encode()) == file.size > 0 or not text


def test_python_stdlib_names_no_files():
    source = parse_source("python_stdlib:3.12")
    assert "'python_stdlib:3.12': python_stdlib names no files" in message_of(source.size)
    assert parse_source("python_stdlib").files == list(stdlib_files())


def test_a_python_without_sources_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    write(tmp_path, "test/a.py", "config-3.11/b.py", "_sysconfigdata_x.py")
    (tmp_path / "latin.py").write_bytes(b"# caf\xe9\n")
    message = message_of(stdlib_files.__wrapped__)
    assert f"no .py sources in {tmp_path} of {sys.executable}" in message


def test_remote_files_are_found(object_store):
    """More of them in test_remote_data."""
    for name in ("books/b.txt", "books/a.jsonl.gz", "books/deep/c.txt", "books/d.md"):
        object_store.put(f"bucket/{name}", name.encode())
    root = "gs://bucket/books"
    found = find_files((f"{root}/*.txt", root, "gs://bucket/books/"))
    assert [file.path for file in found] == [
        f"{root}/{name}" for name in ("b.txt", "a.jsonl.gz", "deep/c.txt")
    ]
    assert [file.size for file in found] == [11, 16, 16]
    assert "gs://bucket/none" in message_of(find_files, ("gs://bucket/none",))
