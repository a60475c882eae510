"""The tokenizer that lies beside an official checkpoint: found, and written."""

import base64
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cartesian_moe_jax.data.tokenizers import (
    JsonTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    resolve_tokenizer,
)
from cartesian_moe_jax.data.tokenizers.resolve import IN_FOLDERS, NAMED
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
    """Return the tokenizer that ``setting`` names, else the one in the folder, else None.

    One of a file ends texts with the ``eos_token_id`` of the folder's config.json, if that has one.
    """
    setting = tokenizer_setting(folder, setting)
    if not setting:
        return None
    with reported("read", folder / "config.json"):
        end = json.loads((folder / "config.json").read_bytes()).get("eos_token_id")
    return resolve_tokenizer(setting, end if isinstance(end, int) and setting not in NAMED else "")


def write_tokenizer(folder: Path, description: Mapping[str, Any]) -> None:
    """Write the file that a tokenizer was read from, where there was one."""
    if description["kind"] in FILES:
        name, as_bytes = FILES[description["kind"]]
        with reported("written", folder / name):
            (folder / name).write_bytes(as_bytes(description["content"]))
