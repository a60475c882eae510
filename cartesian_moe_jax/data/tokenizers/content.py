"""The content of a description: the whole tokenizer file, with a hash that shows damage."""

import hashlib
from collections.abc import Mapping
from typing import Any

from cartesian_moe_jax.errors import UserError


def describe(kind: str, content: str, data: bytes, end_of_text: str) -> dict[str, Any]:
    """Return a description.

    Args:
        kind: the tokenizer's kind.
        content: the file as text.
        data: the bytes of the file, which are hashed.
        end_of_text: the name of the end-of-text token.
    """
    sha256 = hashlib.sha256(data).hexdigest()
    return {"kind": kind, "content": content, "end_of_text": end_of_text, "sha256": sha256}


def content_of(description: Mapping[str, Any], where: str) -> str:
    """Return the file as text; raises UserError where it is missing."""
    content = description.get("content")
    if not isinstance(content, str):
        raise UserError(f"{where} is damaged: 'content' must be the text of a tokenizer file")
    return content


def check_hash(description: Mapping[str, Any], data: bytes, where: str) -> None:
    """Raise UserError where the description has another hash than the bytes of its file."""
    sha256 = hashlib.sha256(data).hexdigest()
    if description.get("sha256", sha256) != sha256:
        raise UserError(f"{where} is damaged: its content has another sha256 than it says")
