"""The setting config.data.tokenizer: a name, or a file that is recognised by what it holds."""

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any

from cartesian_moe_jax.data.tokenizers.byte_tokenizer import ByteTokenizer
from cartesian_moe_jax.data.tokenizers.json_tokenizer import JsonTokenizer
from cartesian_moe_jax.data.tokenizers.libraries import one_line
from cartesian_moe_jax.data.tokenizers.registry import build_tokenizer
from cartesian_moe_jax.data.tokenizers.sentencepiece_tokenizer import SentencePieceTokenizer
from cartesian_moe_jax.data.tokenizers.tokenizer import Tokenizer
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.paths import AnyPath, as_path, is_file, reported

NAMED = {ByteTokenizer.kind: {"kind": ByteTokenizer.kind}}
"""The descriptions of the tokenizers that need no file."""

IN_FOLDERS = ("tokenizer.json", "tokenizer.model")
"""The files that are looked for in a folder, in this order."""


def resolve_tokenizer(setting: str, end_of_text: str | int = "") -> Tokenizer:
    """Make the tokenizer that a setting names.

    Args:
        setting: config.data.tokenizer: `bytes`, or the path, local or `gs://...`, of a
            tokenizer.json, a SentencePiece model, a description in JSON, or a folder with
            `tokenizer.json` or `tokenizer.model` in it.
        end_of_text: config.data.end_of_text: the name of the token that ends documents, or its
            id; empty for the one the file has under a usual name.

    Raises:
        UserError: there is no such name or file, it is no tokenizer, or it has no such token.
    """
    where, description = setting, NAMED.get(setting)
    if description is None:
        path = _find(setting)
        where, description = str(path), _describe(path)
    chosen = {} if end_of_text == "" else {"end_of_text": end_of_text}
    return build_tokenizer({**description, **chosen}, where)


def _find(setting: str) -> AnyPath:
    if setting.strip():
        path = as_path(setting)
        for candidate in (path, *(path / name for name in IN_FOLDERS)):
            if is_file(candidate):
                return candidate
    raise UserError(
        f"config.data.tokenizer={setting!r} is unknown: allowed are {', '.join(NAMED)}, or the "
        "path of a tokenizer.json, of a SentencePiece tokenizer.model, or of a folder with "
        "either; there is no such file"
    )


def _describe(path: AnyPath) -> Mapping[str, Any]:
    with reported("read", path):
        data = path.read_bytes()
    # SentencePiece models are no text, and begin with a tag of their own.
    by_content = ".json" if data.lstrip().startswith(b"{") else ".model"
    read = READERS.get(path.suffix, READERS[by_content])
    return read(data, str(path))


def _read_json(data: bytes, where: str) -> Mapping[str, Any]:
    try:
        text = data.decode("utf-8")
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is damaged JSON: {one_line(error)}") from None
    if isinstance(values, dict) and "kind" in values:
        return values
    if isinstance(values, dict) and "model" in values:
        return {"kind": JsonTokenizer.kind, "content": text}
    raise UserError(
        f"{where} is no tokenizer: a tokenizer.json has a 'model', a description has a 'kind'"
    )


def _read_sentencepiece(data: bytes, where: str) -> Mapping[str, Any]:
    content = base64.b64encode(data).decode("ascii")
    return {"kind": SentencePieceTokenizer.kind, "content": content}


READERS: Mapping[str, Callable[[bytes, str], Mapping[str, Any]]] = {
    ".json": _read_json,
    ".model": _read_sentencepiece,
}
"""How a file becomes a description, by the end of its name."""
