"""The tokenizer that lies beside an official checkpoint: found, and written."""

import base64
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cartesian_moe_jax.data.tokenizers import (
    JsonTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    resolve_tokenizer,
)
from cartesian_moe_jax.data.tokenizers.resolve import IN_FOLDERS
from cartesian_moe_jax.paths import reported

FILES: Mapping[str, tuple[str, Callable[[str], bytes]]] = {
    JsonTokenizer.kind: ("tokenizer.json", str.encode),
    SentencePieceTokenizer.kind: ("tokenizer.model", base64.b64decode),
}
"""The file of a tokenizer, by its kind, and how its content becomes bytes; ``bytes`` has none."""


def tokenizer_setting(folder: Path, setting: str = "") -> str:
    """Return ``setting``, or the folder if a tokenizer lies in it, or nothing."""
    found = any((folder / name).is_file() for name in IN_FOLDERS)
    return setting or (str(folder) if found else "")


def find_tokenizer(folder: Path, setting: str = "") -> Tokenizer | None:
    """Return the tokenizer that ``setting`` names, else the one in the folder, else None."""
    setting = tokenizer_setting(folder, setting)
    return resolve_tokenizer(setting) if setting else None


def write_tokenizer(folder: Path, description: Mapping[str, Any]) -> None:
    """Write the file that a tokenizer was read from, where there was one."""
    if description["kind"] in FILES:
        name, as_bytes = FILES[description["kind"]]
        with reported("written", folder / name):
            (folder / name).write_bytes(as_bytes(description["content"]))
