"""Packed tokens: a folder of flat shards of token ids, read through memory maps.

The folder holds `metadata.json`, `tokenizer.json` (the description of the tokenizer), and per
stream (a split, or one group's part of a split) shards of little-endian uint16 (uint32 for
vocabularies above 65,536). Each document is followed by one end-of-text token.
"""

import bisect
import dataclasses
import functools
import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt

from cartesian_moe_jax.data.marks import Marks
from cartesian_moe_jax.data.text_size import TextSize, decoded_size, share_of
from cartesian_moe_jax.data.tokenizers import Tokenizer, build_tokenizer
from cartesian_moe_jax.data.tokenizing import stream_name
from cartesian_moe_jax.errors import UserError, nearest

FORMAT_VERSION = 2
METADATA, TOKENIZER = "metadata.json", "tokenizer.json"

MOST_DECODED = 2**22
"""Tokens between two marks; where there are more, what is decoded counts as it stands."""


def open_packed(directory: str | Path, split: str) -> "PackedTokens":
    """Open one split of a packed corpus.

    Raises:
        UserError: no such split, or the folder is no packed corpus or damaged.
    """
    return PackedCorpus.open(directory).split(split)


@dataclasses.dataclass(frozen=True)
class PackedCorpus:
    """A folder of packed tokens and what its metadata says.

    Attributes:
        directory: the folder.
        metadata: `metadata.json`: corpus, tokenizer, content_hash, broken_lines, and per stream
            the documents, bytes, words, tokens, marks (see there) and shards.
    """

    directory: Path
    metadata: dict[str, Any]

    @classmethod
    def open(cls, directory: str | Path) -> "PackedCorpus":
        """Read the metadata; UserError where it is missing or of another version."""
        path = Path(directory) / METADATA
        try:
            metadata = json.loads(path.read_text(encoding="utf-8"))
            version = metadata["format_version"]
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(f"{directory} is no packed corpus: {METADATA} is unreadable") from None
        if version != FORMAT_VERSION:
            raise UserError(f"{path}: format_version={version} must be {FORMAT_VERSION}")
        return cls(Path(directory), metadata)

    def has(self, split: str, group: str = "") -> bool:
        """Tell whether there are tokens of a split, or of one group's part of it."""
        return stream_name(split, group) in self.metadata["splits"]

    def split(self, split: str, group: str = "") -> "PackedTokens":
        """Open a split, or one group's part of it.

        Raises:
            UserError: it does not exist, or a shard is damaged.
        """
        name = stream_name(split, group)
        if not self.has(split, group):
            known = [stream for stream in self.metadata["splits"] if ("/" in stream) == bool(group)]
            names = ", ".join(" ".join(stream.split()) for stream in sorted(known)[:50])
            raise UserError(
                f"{name!r} is unknown in {self.directory}; known: {names or 'none'}"
                f"{nearest(name, known)}"
            )
        return PackedTokens(self, name)

    @property
    def content_hash(self) -> str:
        """The sha256 over the shards of all streams."""
        return self.metadata["content_hash"]

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that packed it."""
        path = self.directory / TOKENIZER
        try:
            return build_tokenizer(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read: {error}") from None


class PackedTokens:
    """The tokens of one stream as one long sequence, read from memory-mapped shards.

    Attributes:
        corpus: the packed corpus it belongs to.
        name: the split, or `SPLIT/GROUP`.
        documents: number of documents (or parts of documents).
        num_bytes: bytes of UTF-8 text, end-of-text tokens not counted.
        num_words: words, separated by white space.
    """

    def __init__(self, corpus: PackedCorpus, name: str):
        """Map the shards; UserError names the one that is damaged."""
        facts = corpus.metadata["splits"][name]
        self.corpus = corpus
        self.name = name
        self.documents: int = facts["documents"]
        self.num_bytes: int = facts["bytes"]
        self.num_words: int = facts["words"]
        self._marks = _marks_of(corpus, name)
        self._sizes: dict[int, TextSize] = {}
        dtype = np.dtype(corpus.metadata["dtype"])
        self._shards = [_map_shard(corpus.directory, s, dtype) for s in facts["shards"]]
        sizes = (len(shard) for shard in self._shards)
        self._starts = list(itertools.accumulate(sizes, initial=0))
        self._dtype = dtype
        digests = [shard["sha256"] for shard in facts["shards"]]
        self.content_hash: str = hashlib.sha256("".join(digests).encode()).hexdigest()
        """Over its shards alone."""

    def __len__(self) -> int:
        """Number of tokens, end-of-text included."""
        return self._starts[-1]

    def __repr__(self) -> str:
        """Name the stream by its content, not its place: stable across machines."""
        return f"PackedTokens(split={self.name!r}, content_hash={self.content_hash!r})"

    def read(self, start: int, stop: int) -> UInt[np.ndarray, "tokens"]:
        """Return tokens [start, stop), cut at the end as a slice is.

        Within one shard this is a read-only view of the file; across shards it is a copy.
        """
        start, stop, _ = slice(start, stop).indices(len(self))
        shard = bisect.bisect_right(self._starts, start) - 1
        pieces = []
        while start < stop:
            begin, end = self._starts[shard], min(stop, self._starts[shard + 1])
            pieces.append(self._shards[shard][start - begin : end - begin])
            start, shard = end, shard + 1
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces) if pieces else np.empty(0, self._dtype)

    def size_until(self, stop: int) -> TextSize:
        """Return how much text tokens [0, stop) stand for, cut at the end; found once."""
        stop = min(stop, len(self))
        if stop not in self._sizes:
            self._sizes[stop] = self._find_size(stop)
        return self._sizes[stop]

    def _find_size(self, stop: int) -> TextSize:
        whole = TextSize(len(self), self.num_bytes, self.num_words)
        before, after = self._marks.around(stop, whole)
        if stop in (before.tokens, after.tokens):
            return before if stop == before.tokens else after
        tokenizer, between = self.corpus.tokenizer, after.minus(before)
        read = decoded_size(self.read(before.tokens, stop), tokenizer)
        # Folders packed by earlier versions have no marks: all of them lies between two.
        if between.tokens <= MOST_DECODED:
            decoded = decoded_size(self.read(before.tokens, after.tokens), tokenizer)
            read = share_of(between, read, decoded)
        return before.plus(read)


def _marks_of(corpus: PackedCorpus, name: str) -> Marks:
    try:
        return Marks.from_text(corpus.metadata["splits"][name].get("marks", ""))
    except (ValueError, TypeError, AttributeError):
        raise UserError(
            f"{corpus.directory / METADATA} is damaged: the marks of {name!r} are unreadable"
        ) from None


def _map_shard(
    directory: Path, shard: dict[str, Any], dtype: np.dtype
) -> UInt[np.ndarray, "tokens"]:
    name = shard["file"]
    if Path(name).name != name:
        raise UserError(f"{directory / METADATA} names a shard outside its folder: {name!r}")
    path = directory / name
    size = path.stat().st_size if path.is_file() else None
    if size != shard["bytes"]:
        found = "is missing" if size is None else f"has {size} bytes"
        raise UserError(
            f"{path} is damaged: it {found}, must have {shard['bytes']} bytes; "
            f"delete {directory} to pack it again"
        )
    # A plain array: slices of np.memmap cost several times more.
    return np.asarray(np.memmap(path, dtype, mode="r"))
