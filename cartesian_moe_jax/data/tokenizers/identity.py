"""The identity of a tokenizer: small JSON data, equal for equal tokenizers only."""

import hashlib
from collections.abc import Mapping
from typing import Any

from cartesian_moe_jax.errors import UserError

DISTINCTIVE = ("kind", "sha256", "vocab_size", "end_of_text")


def tokenizer_identity(
    kind: str, vocab_size: int, end_of_text: int, content: bytes, **known: str
) -> dict[str, Any]:
    """Return `{"kind", "vocab_size", "end_of_text", "sha256"}` and what else is known.

    Args:
        kind: the tokenizer's kind.
        vocab_size: its number of token ids.
        end_of_text: the id of its end-of-text token.
        content: the bytes that its hash is of.
        known: `name` or `model`, for its label.
    """
    return {
        "kind": kind,
        "vocab_size": vocab_size,
        "end_of_text": end_of_text,
        "sha256": hashlib.sha256(content).hexdigest(),
        **known,
    }


def tokenizer_label(identity: Mapping[str, Any]) -> str:
    """Return a short label, as `bytes (257 tokens)` or `bpe 3fa4c1d2 (8,192 tokens)`."""
    hashed = f"{identity.get('model', identity['kind'])} {identity['sha256'][:8]}"
    return f"{identity.get('name', hashed)} ({identity['vocab_size']:,} tokens)"


def require_same_tokenizer(
    identity_a: Mapping[str, Any], where_a: str, identity_b: Mapping[str, Any], where_b: str
) -> None:
    """Check that two places use one tokenizer.

    Args:
        identity_a: an identity, as `Tokenizer.identity` returns it.
        where_a: where it is from, for the message: a file, a folder, a setting.
        identity_b: the other identity.
        where_b: where the other is from.

    Raises:
        UserError: they differ; the message names both labels and both places.
    """
    differing = [key for key in DISTINCTIVE if identity_a[key] != identity_b[key]]
    if differing:
        raise UserError(
            f"{where_a} has the tokenizer {tokenizer_label(identity_a)}, but {where_b} has "
            f"{tokenizer_label(identity_b)}: they must be the same (they differ in "
            f"{', '.join(differing)})"
        )
