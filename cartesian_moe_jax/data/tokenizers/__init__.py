"""Tokenizers: text to token ids and back, each with a description that travels with its tokens."""

from cartesian_moe_jax.data.tokenizers.byte_tokenizer import ByteTokenizer
from cartesian_moe_jax.data.tokenizers.identity import require_same_tokenizer, tokenizer_label
from cartesian_moe_jax.data.tokenizers.json_tokenizer import JsonTokenizer
from cartesian_moe_jax.data.tokenizers.registry import TOKENIZERS, build_tokenizer
from cartesian_moe_jax.data.tokenizers.resolve import resolve_tokenizer
from cartesian_moe_jax.data.tokenizers.sentencepiece_tokenizer import SentencePieceTokenizer
from cartesian_moe_jax.data.tokenizers.tokenizer import Tokenizer
from cartesian_moe_jax.data.tokenizers.training import train_bpe

__all__ = [
    "TOKENIZERS",
    "ByteTokenizer",
    "JsonTokenizer",
    "SentencePieceTokenizer",
    "Tokenizer",
    "build_tokenizer",
    "require_same_tokenizer",
    "resolve_tokenizer",
    "tokenizer_label",
    "train_bpe",
]
