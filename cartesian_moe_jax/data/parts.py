"""The parts of a split: one for each source of a mixture."""

from collections.abc import Sequence
from typing import NamedTuple

from cartesian_moe_jax.data.packed import PackedTokens
from cartesian_moe_jax.data.sources.source import hash_of


class Part(NamedTuple):
    """One source's tokens of a split."""

    name: str
    weight: float
    """Its share of the training tokens, or of the mean over the mixture; all add up to 1."""
    tokens: PackedTokens


def content_hash(parts: Sequence[Part]) -> str:
    """Return the sha256 over the tokens and weights of parts."""
    return hash_of([[part.weight, part.tokens.content_hash] for part in parts])


def describe(parts: Sequence[Part]) -> list[str]:
    """Return a line for each part: its share, documents, bytes, tokens and bytes per token."""
    width = max((len(part.name) for part in parts), default=0)
    return [
        f"{part.name:{width}}  {part.weight:7.2%}  {part.tokens.documents:>11,} documents  "
        f"{part.tokens.num_bytes:>15,} bytes  {len(part.tokens):>15,} tokens  "
        f"{part.tokens.num_bytes / max(len(part.tokens), 1):5.2f} bytes/token"
        for part in parts
    ]


def broken_lines(parts: Sequence[Part]) -> list[str]:
    """Return a line for each packed corpus of which lines were skipped."""
    facts = {p.tokens.corpus.directory: p.tokens.corpus.metadata for p in parts}.values()
    return [
        f"{m['corpus']}: {m['broken_lines']:,} broken lines skipped, the first: {m['first_broken']}"
        for m in facts
        if m["broken_lines"]
    ]
