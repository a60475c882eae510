"""Rows of local files: documents of .txt and .jsonl, streamed, with what is wrong named."""

import codecs
import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath
from typing import Any, NamedTuple

from cartesian_moe_jax.data.documents import Document, split_key
from cartesian_moe_jax.data.sources.compressed import DECOMPRESSORS, open_decompressed
from cartesian_moe_jax.errors import UserError

PIECE_BYTES = 2**20
"""A longer text is kept in pieces of about this size: tokenizers take 150 bytes a character."""


class Fields(NamedTuple):
    """What is read of a JSON line; a field inside an object is named `meta.domain`."""

    text: str = "text"
    group: str = ""
    """The field whose values divide the corpus; empty: it is not divided."""


BrokenLine = Callable[[str], None]
"""Called with what is wrong with a line: raises UserError, or counts and returns."""

Reader = Callable[[io.IOBase, str, Fields, BrokenLine], Iterator[Document]]


def read_rows(path: Any, fields: Fields, on_broken: BrokenLine) -> Iterator[tuple[Document, int]]:
    """Yield the rows of a file, each with the number of (compressed) bytes read so far.

    Raises:
        UserError: the file cannot be read, is corrupt, not UTF-8, or lacks the text field.
    """
    kind, suffix = file_kind(path.name)
    with open_decompressed(path, suffix) as (content, file):
        for document in READERS[kind](content, str(path), fields, on_broken):
            yield document, file.tell()


def file_kind(name: str) -> tuple[str, str]:
    """Return how a file is read and decompressed, by the ends of its name; ("", _) if not."""
    path = PurePath(name.lower())
    suffix = path.suffix if path.suffix in DECOMPRESSORS else ""
    kind = PurePath(path.stem if suffix else path.name).suffix
    return (kind if kind in READERS else ""), suffix


def _read_text(
    content: io.IOBase, path: str, fields: Fields, on_broken: BrokenLine
) -> Iterator[Document]:
    """Yield a text file as one document."""
    yield from _in_pieces(_decoded(content, path))


def _in_pieces(blocks: Iterator[str], group: str = "") -> Iterator[Document]:
    """Yield the document that blocks make up, in pieces that end at line ends where it is long."""
    pieces = _cut_at_line_ends(blocks)
    piece = next(pieces, "")
    key = split_key(piece)
    for following in pieces:
        if piece.isspace() or following.isspace():
            # Documents of white space alone are passed over, so that no piece may be one.
            piece += following
        else:
            yield Document(piece, key, group, ends=False)
            piece = following
    if piece:
        yield Document(piece, key, group)


def _cut_at_line_ends(blocks: Iterator[str]) -> Iterator[str]:
    text = ""
    for block in blocks:
        if text:
            end = text.rfind("\n", len(text) // 2) + 1 or len(text)
            yield text[:end]
            text = text[end:]
        text += block
    if text:
        yield text


def _decoded(content: io.IOBase, path: str) -> Iterator[str]:
    decoder, seen = codecs.getincrementaldecoder("utf-8")(), 0
    while True:
        data = content.read(PIECE_BYTES)
        seen += len(data)
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            offset = seen - len(error.object) + error.start
            raise UserError(
                f"{path} is not UTF-8 text: bad byte at offset {offset} ({error.reason})"
            ) from None
        if text:
            yield text
        if not data:
            return


def _read_json_lines(
    content: io.IOBase, path: str, fields: Fields, on_broken: BrokenLine
) -> Iterator[Document]:
    """Yield one document a line; blank lines are passed over."""
    good = False
    for number, line in enumerate(content, 1):
        if line.isspace():
            continue
        try:
            row = json.loads(line)
            text, group = _fields_of(row, fields)
        except KeyError as error:
            # The first good line tells a wrong field name from a broken line.
            missing = f"{path}:{number} has no field {error.args[0]!r}; present: {_names(row)}"
            if not good:
                raise UserError(missing) from None
            on_broken(missing)
        except (ValueError, TypeError, RecursionError) as error:
            on_broken(f"{path}:{number} is not a JSON object with a text: {_first_line(error)}")
        else:
            good = True
            starts = range(0, len(text), PIECE_BYTES)
            yield from _in_pieces((text[i : i + PIECE_BYTES] for i in starts), group)


def _fields_of(row: Any, fields: Fields) -> tuple[str, str]:
    if not isinstance(row, dict):
        raise TypeError(f"it is a {type(row).__name__}")
    text = _field(row, fields.text)
    if not isinstance(text, str):
        raise TypeError(f"field {fields.text!r} is a {type(text).__name__}")
    return text, str(_field(row, fields.group)) if fields.group else ""


def _field(row: dict[str, Any], name: str) -> Any:
    """Return a field, also one inside objects; KeyError names the field that was asked for."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            raise KeyError(name)
        value = value[part]
    return value


def _names(row: dict[str, Any]) -> str:
    inner = [f"{k}.{name}" for k, v in row.items() if isinstance(v, dict) for name in v]
    return " ".join(", ".join([*row, *inner][:20]).split()) or "none"


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


READERS: Mapping[str, Reader] = {
    ".txt": _read_text,
    ".py": _read_text,
    ".jsonl": _read_json_lines,
}
"""By the end of a file's name, compression apart."""
