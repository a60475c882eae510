"""Packed tokens: a folder of flat shards of token ids, read through memory maps.

The folder holds `metadata.json` and, per split, `SPLIT-00000.bin`, ... of little-endian uint16
(uint32 for vocabularies above 65,536). Each document is followed by one end-of-text token.
"""

import bisect
import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt

from cartesian_moe_jax.data.tokenizers import Tokenizer, build_tokenizer
from cartesian_moe_jax.errors import UserError

FORMAT_VERSION = 1
METADATA = "metadata.json"


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
        metadata: `metadata.json`: corpus, tokenizer, content_hash, and per split the documents,
            bytes, tokens and shards.
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

    def split(self, name: str) -> "PackedTokens":
        """Open a split; UserError where it does not exist or a shard is damaged."""
        if name not in self.metadata["splits"]:
            known = ", ".join(self.metadata["splits"])
            raise UserError(f"split {name!r} is unknown in {self.directory}; known: {known}")
        return PackedTokens(self, name)

    @property
    def content_hash(self) -> str:
        """The sha256 over all tokens of all splits; the same for any shard size."""
        return self.metadata["content_hash"]

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that packed it."""
        return build_tokenizer(self.metadata["tokenizer"])


class PackedTokens:
    """The tokens of one split as one long sequence, read from memory-mapped shards.

    Attributes:
        corpus: the packed corpus it belongs to.
        name: the split.
        documents: number of documents (or parts of documents).
        num_bytes: bytes of UTF-8 text, end-of-text tokens not counted.
    """

    def __init__(self, corpus: PackedCorpus, name: str):
        """Map the shards of a split; UserError names the one that is damaged."""
        facts = corpus.metadata["splits"][name]
        self.corpus = corpus
        self.name = name
        self.documents: int = facts["documents"]
        self.num_bytes: int = facts["bytes"]
        dtype = np.dtype(corpus.metadata["dtype"])
        self._shards = [_map_shard(corpus.directory, s, dtype) for s in facts["shards"]]
        sizes = (len(shard) for shard in self._shards)
        self._starts = list(itertools.accumulate(sizes, initial=0))
        self._dtype = dtype

    def __len__(self) -> int:
        """Number of tokens, end-of-text included."""
        return self._starts[-1]

    def __repr__(self) -> str:
        """Name the split by its content, not its place: stable across machines."""
        return f"PackedTokens(split={self.name!r}, content_hash={self.corpus.content_hash!r})"

    def read(self, start: int, stop: int) -> UInt[np.ndarray, "tokens"]:
        """Return tokens [start, stop), cut at the end of the split as a slice is.

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


def _map_shard(
    directory: Path, shard: dict[str, Any], dtype: np.dtype
) -> UInt[np.ndarray, "tokens"]:
    path = directory / shard["file"]
    size = path.stat().st_size if path.is_file() else None
    if size != shard["bytes"]:
        found = "is missing" if size is None else f"has {size} bytes"
        raise UserError(
            f"{path} is damaged: it {found}, must have {shard['bytes']} bytes; "
            f"delete {directory} to pack it again"
        )
    # A plain array: slices of np.memmap cost several times more.
    return np.asarray(np.memmap(path, dtype, mode="r"))
