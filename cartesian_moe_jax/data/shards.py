"""Writing the tokens of one stream into shards of bounded size, to be continued after a stop."""

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt

from cartesian_moe_jax.data.marks import Marks
from cartesian_moe_jax.data.tokenizing import Counts

READ_BYTES = 2**22


class ShardWriter:
    """Appends tokens to `PREFIX-00000.bin`, `PREFIX-00001.bin`, ..., and counts and hashes them."""

    def __init__(
        self, folder: Path, prefix: str, shard_bytes: int, state: dict[str, Any] | None = None
    ):
        """Begin, or continue where `state` was taken: what was written later is cut off."""
        self._folder, self._prefix, self._limit = folder, prefix, shard_bytes
        state = state or {"counts": Counts(), "shards": [], "open_bytes": 0}
        self.counts = Counts(*state["counts"])
        self._marks = Marks.from_text(state.get("marks", ""))
        self._shards: list[dict[str, Any]] = list(state["shards"])
        self._file: Any = None
        if state["open_bytes"]:
            self._reopen(state["open_bytes"])

    def add(
        self, counts: Counts, tokens: UInt[np.ndarray, "tokens"], marks: Marks | None = None
    ) -> None:
        """Append tokens, which `counts` and `marks` describe."""
        for size in marks.behind(self.counts.size) if marks else ():
            self._marks.add(size)
        self.counts = self.counts.plus(counts)
        data = tokens.data.cast("B") if tokens.size else memoryview(b"")
        while data:
            if self._file is None:
                self._open("wb", 0)
            room = self._limit - self._size
            part, data = data[:room], data[room:]
            self._file.write(part)
            self._hash.update(part)
            self._size += len(part)
            if self._size == self._limit:
                self._close_shard()

    def state(self) -> dict[str, Any]:
        """Bring everything to disk, and return JSON data from which writing can continue."""
        if self._file is not None:
            self._sync()
        open_bytes = self._size if self._file is not None else 0
        return {
            "counts": self.counts,
            "marks": self._marks.to_text(),
            "shards": list(self._shards),
            "open_bytes": open_bytes,
        }

    def finish(self) -> dict[str, Any]:
        """Close the last shard; return what metadata say of the stream."""
        if self._file is not None:
            self._close_shard()
        marks = self._marks.to_text()
        return {**self.counts._asdict(), "marks": marks, "shards": self._shards}

    def abandon(self) -> None:
        """Close what is open; on a full disk that fails as writing did."""
        with contextlib.suppress(OSError):
            if self._file is not None:
                self._file.close()

    def _open(self, mode: str, size: int) -> None:
        path = self._folder / f"{self._prefix}-{len(self._shards):05d}.bin"
        # Open across calls; `abandon` closes it when something fails.
        self._file = open(path, mode, buffering=2**20)  # noqa: SIM115
        self._size, self._hash = size, hashlib.sha256()

    def _reopen(self, size: int) -> None:
        self._open("r+b", size)
        if os.fstat(self._file.fileno()).st_size < size:
            raise OSError(f"{self._file.name} is shorter than the {size} bytes written to it")
        self._file.truncate(size)
        while data := self._file.read(READ_BYTES):
            self._hash.update(data)
        self._file.seek(size)

    def _close_shard(self) -> None:
        self._sync()
        self._file.close()
        name = Path(self._file.name).name
        facts = {"file": name, "bytes": self._size, "sha256": self._hash.hexdigest()}
        self._shards.append(facts)
        self._file = None

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
