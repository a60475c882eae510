import hashlib
import json

import pytest

from cartesian_moe_jax.data import documents
from cartesian_moe_jax.data.documents import split_key
from cartesian_moe_jax.data.sources import rows
from cartesian_moe_jax.data.sources.rows import Fields, file_kind, read_rows
from cartesian_moe_jax.errors import UserError
from tests import messages


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(rows, "PIECE_BYTES", 100)
    # As much smaller than a piece as it is.
    monkeypatch.setattr(documents, "KEY_CHARACTERS", documents.KEY_CHARACTERS * 100 // 2**20)


def refuse(line):
    raise UserError(line)


def read(path, content, fields=Fields(), on_broken=refuse):  # noqa: B008
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [document for document, _ in read_rows(path, fields, on_broken)]


def message_of(*arguments):
    return messages.message_of(read, *arguments)


def json_lines(*values):
    return "".join(json.dumps(value) + "\n" for value in values)


def check_pieces(found, text):
    """Pieces make up the text, share its key, and the last one ends it."""
    assert "".join(document.text for document in found) == text
    assert {document.split_key for document in found} == {split_key(text)}
    assert [document.ends for document in found] == [False] * (len(found) - 1) + [True]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.txt", (".txt", "")),
        ("a.TXT.GZ", (".txt", ".gz")),
        ("a.b.jsonl.zst", (".jsonl", ".zst")),
        ("a.py", (".py", "")),
        ("a.gz", ("", ".gz")),
        ("a.txt.bz2", ("", "")),
        ("a.json", ("", "")),
        (".txt", ("", "")),
        ("txt", ("", "")),
    ],
)
def test_the_ends_of_a_name_tell_how_it_is_read(name, kind):
    assert file_kind(name) == kind


@pytest.mark.parametrize("text", ["x", "one\ntwo", "\r\n windows\r\n", "naïve 日本 🎈"])
def test_a_text_file_is_one_document(tmp_path, text):
    found = read(tmp_path / "a.txt", text)
    assert len(found) == 1
    check_pieces(found, text)


def test_an_empty_file_has_no_document(tmp_path):
    assert read(tmp_path / "a.txt", "") == []
    assert read(tmp_path / "a.jsonl", "\n \n") == []
    assert read(tmp_path / "a.jsonl", json_lines({"text": ""})) == []


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
@pytest.mark.parametrize(
    "text",
    [
        "".join(f"line {i}\n" for i in range(100)),
        "".join(f"{i}\r\n" for i in range(100)),
        "日本語\n" * 99 + "🎈🎈",
        "x" + "🎈" * 299,  # characters lie across the borders of blocks
        "é" * 1000,
        "a line\n" + "x" * 500 + "\nanother",
    ],
)
def test_a_long_text_is_kept_in_pieces(tmp_path, small_pieces, name, text):
    content = text if name == "a.txt" else json_lines({"text": text})
    found = read(tmp_path / name, content)
    assert len(found) > 2
    check_pieces(found, text)
    assert max(len(document.text) for document in found) <= 200
    if "x" not in text and "é" not in text:
        assert all(document.text.endswith("\n") for document in found[:-1])


def test_the_key_of_a_long_text_does_not_depend_on_the_file(tmp_path):
    text = "".join(f"line {i}: 日本 🎈\n" for i in range(130_000))
    texts = read(tmp_path / "a.txt", text)
    lines = read(tmp_path / "a.jsonl", json_lines({"text": text}))
    assert len(texts) > 1 and len(lines) > 1
    check_pieces(texts, text)
    check_pieces(lines, text)


@pytest.mark.parametrize("text", ["\n" * 1000 + "text", "text" + " \n" * 1000, " " * 1000])
def test_no_piece_is_white_space_alone(tmp_path, small_pieces, text):
    """It would be taken for an empty document, and the end of the text be lost."""
    found = read(tmp_path / "a.txt", text)
    check_pieces(found, text)
    assert not any(document.text.isspace() for document in found) or text.isspace()


def test_white_space_between_long_texts_stays(tmp_path, small_pieces):
    text = "one\n" * 100 + " " * 300 + "\n" * 300 + "two\n" * 100
    found = read(tmp_path / "a.txt", text)
    check_pieces(found, text)
    assert not any(document.text.isspace() for document in found)


@pytest.mark.parametrize("offset", [0, 1, 99, 100, 101, 250, 399])
def test_the_offset_of_a_bad_byte_is_exact_in_every_block(tmp_path, small_pieces, offset):
    content = b"x" * offset + b"\xff" + b"x" * (400 - offset)
    path = tmp_path / "a.txt"
    message = message_of(path, content)
    assert f"{path} is not UTF-8 text: bad byte at offset {offset} (invalid start byte)" == message


@pytest.mark.parametrize("start", [97, 98, 99, 100, 396])
def test_the_offset_of_half_a_character_is_where_it_starts(tmp_path, small_pieces, start):
    half = "🎈".encode()[:3]
    behind = message_of(tmp_path / "a.txt", b"x" * start + half + b"x" * 10)
    assert f"bad byte at offset {start} (invalid continuation byte)" in behind
    at_the_end = message_of(tmp_path / "a.txt", b"x" * start + half)
    assert f"bad byte at offset {start} (unexpected end of data)" in at_the_end


def test_json_lines_are_documents_and_blank_lines_are_passed_over(tmp_path):
    lines = '\n{"text": "one"}\r\n \t\n{"id": 3, "text": "two\\n"}\n\n{"text": "three"}'
    found = read(tmp_path / "a.jsonl", lines)
    assert [document.text for document in found] == ["one", "two\n", "three"]
    assert [document.split_key for document in found] == [
        hashlib.blake2b(text, digest_size=8).hexdigest() for text in (b"one", b"two\n", b"three")
    ]


def test_the_field_may_lie_inside_objects(tmp_path):
    row = {"a": {"b": {"text": "inner"}}, "a.b": "dotted", "text": "outer"}
    for field, text in {"a.b.text": "inner", "a.b": "dotted", "text": "outer"}.items():
        (document,) = read(tmp_path / "a.jsonl", json_lines(row), Fields(field))
        assert document.text == text


@pytest.mark.parametrize("field", ["story", "meta.text", "meta.domain.name", "text.length"])
def test_a_field_that_the_first_line_lacks_names_those_present(tmp_path, field):
    content = "\n" + json_lines({"text": "x", "meta": {"domain": "web", "id": 1}, "n": 2})
    path = tmp_path / "a.jsonl"
    # Also where broken lines are skipped: it is the field's name that is wrong.
    message = message_of(path, content, Fields(field), lambda line: None)
    present = "text, meta, n, meta.domain, meta.id"
    assert message == f"{path}:2 has no field {field!r}; present: {present}"


def test_the_present_fields_are_named_in_one_line_and_not_all(tmp_path):
    row = {"line\nbreak": 1} | {f"field{i:03d}": i for i in range(500)}
    message = message_of(tmp_path / "a.jsonl", json_lines(row))
    assert "present: line break, field000, " in message
    assert "field018" in message and "field019" not in message
    assert message_of(tmp_path / "a.jsonl", "{}").endswith("present: none")


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"text": "cut', "Invalid control character"),
        ("no json", "Expecting value"),
        ('["text"]', "it is a list"),
        ('"text"', "it is a str"),
        ("null", "it is a NoneType"),
        ('{"text": null}', "field 'text' is a NoneType"),
        ('{"text": 3}', "field 'text' is a int"),
        ('{"text": ["a"]}', "field 'text' is a list"),
        ('{"text": {"text": "a"}}', "field 'text' is a dict"),
        ('{"text": "a"} {"text": "b"}', "Extra data"),
        ('{"text": "a", "n": ' + "9" * 5000 + "}", "integer string conversion"),
        (DEEP, "recursion"),
        ('{"text": "a", "deep": ' + DEEP + "}", "recursion"),
        (b'{"text": "caf\xe9"}', "codec can't decode"),
    ],
)
def test_a_broken_line_is_reported_with_its_place_and_passed_over(tmp_path, line, what):
    line, path, broken = (
        line if isinstance(line, bytes) else line.encode(),
        tmp_path / "a.jsonl",
        [],
    )
    content = b'{"text": "one"}\n\n' + line + b'\n{"text": "two"}\n'
    found = read(path, content, Fields(), broken.append)
    assert [document.text for document in found] == ["one", "two"]
    (message,) = broken
    assert message.startswith(f"{path}:3 is not a JSON object with a text: ")
    assert what in message
    assert "\n" not in message
    assert len(message) < 300 + len(str(path))


def test_broken_lines_may_be_the_first_and_many(tmp_path):
    content = "{\n" * 3 + json_lines({"text": "good"}, {"other": 1}, {"text": 5})
    broken = []
    found = read(tmp_path / "a.jsonl", content, Fields(), broken.append)
    assert [document.text for document in found] == ["good"]
    places = [message.partition(" ")[0].rpartition(":")[2] for message in broken]
    assert places == ["1", "2", "3", "5", "6"]
    assert "a.jsonl:5 has no field 'text'; present: other" in broken[3]


def test_reading_ends_where_a_broken_line_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json_lines({"text": "one"}, 3, {"text": "two"}))
    found = read_rows(path, Fields(), refuse)
    assert next(found)[0].text == "one"
    with pytest.raises(UserError, match=r"a\.jsonl:2 is not a JSON object with a text"):
        next(found)


@pytest.mark.parametrize("text", ['{"text": "a\\ud800b"}', b'{"text": "a\xed\xa0\x80b"}'])
def test_half_a_surrogate_pair_has_a_split_key_of_its_own(tmp_path, text):
    """JSON can hold one, which is no text: it is written as a question mark."""
    (document,) = read(tmp_path / "a.jsonl", text)
    assert document.text == "a\ud800b"
    assert document.split_key == split_key("a?b")


def test_a_byte_order_mark_before_json_is_passed_over(tmp_path):
    (document,) = read(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"text": "a"}\n')
    assert document.text == "a"


def test_the_group_is_the_value_of_its_field(tmp_path):
    lines = json_lines(
        {"text": "one", "meta": {"set": "Wikipedia (en)"}},
        {"text": "two", "meta": {"set": 7}},
        {"text": "three", "meta": {}},
    )
    broken = []
    found = read(tmp_path / "a.jsonl", lines, Fields("text", "meta.set"), broken.append)
    assert [document.group for document in found] == ["Wikipedia (en)", "7"]
    assert len(broken) == 1
    assert "a.jsonl:3 has no field 'meta.set'; present: text, meta" in broken[0]


def test_all_pieces_of_a_line_have_its_group(tmp_path, small_pieces):
    line = {"text": "long line\n" * 100, "set": "web"}
    found = read(tmp_path / "a.jsonl", json_lines(line), Fields("text", "set"))
    assert len(found) > 5
    assert {document.group for document in found} == {"web"}


def test_positions_grow_to_the_size_of_the_file(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json_lines(*({"text": f"{i} " * 1000} for i in range(50))))
    positions = [position for _, position in read_rows(path, Fields(), refuse)]
    assert len(positions) == 50
    assert positions == sorted(positions)
    assert 0 < positions[0] < positions[-1] == path.stat().st_size
