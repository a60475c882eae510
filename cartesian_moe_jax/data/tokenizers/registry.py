"""The registry of tokenizers, by the kind that their descriptions name."""

from collections.abc import Mapping
from typing import Any

from cartesian_moe_jax.data.tokenizers.byte_tokenizer import ByteTokenizer
from cartesian_moe_jax.data.tokenizers.json_tokenizer import JsonTokenizer
from cartesian_moe_jax.data.tokenizers.sentencepiece_tokenizer import SentencePieceTokenizer
from cartesian_moe_jax.data.tokenizers.tokenizer import Tokenizer
from cartesian_moe_jax.errors import lookup

TOKENIZERS: Mapping[str, Any] = {
    tokenizer.kind: tokenizer
    for tokenizer in (ByteTokenizer, JsonTokenizer, SentencePieceTokenizer)
}


def build_tokenizer(
    description: str | Mapping[str, Any], where: str = "the tokenizer's description"
) -> Tokenizer:
    """Make a tokenizer from its description, or from the bare name of its kind.

    Args:
        description: `{"kind": NAME, ...}` as written by `Tokenizer.description`, or `NAME`.
        where: what messages call the tokenizer: a file, a setting.

    Raises:
        UserError: the kind is not one of `TOKENIZERS`, or the description is damaged.
    """
    field = f"{where}: kind"
    if isinstance(description, str):
        description, field = {"kind": description}, "config.data.tokenizer"
    make = lookup(TOKENIZERS, str(description.get("kind")), field)
    return make.from_description(description, where)
