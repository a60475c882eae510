"""Packing: documents tokenised once into a folder of flat shards, see `packed` for the format.

The folder appears whole, by a rename, or not at all. Packing that was interrupted (Ctrl-C, a
kill) goes on where its journal says; packing that failed leaves nothing.
"""

import contextlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cartesian_moe_jax.data.documents import Documents
from cartesian_moe_jax.data.durable import put_in_place, write_durably
from cartesian_moe_jax.data.jobs import run_jobs
from cartesian_moe_jax.data.locks import locked
from cartesian_moe_jax.data.marks import Marks
from cartesian_moe_jax.data.pack_settings import PackSettings
from cartesian_moe_jax.data.packed import METADATA, TOKENIZER
from cartesian_moe_jax.data.progress import StageBar
from cartesian_moe_jax.data.shards import ShardWriter
from cartesian_moe_jax.data.sources.source import Found, Reading, Source, hash_of, undivided
from cartesian_moe_jax.data.splits import SPLITS, SplitRule, choose_rule
from cartesian_moe_jax.data.tokenizers import Tokenizer, tokenizer_label
from cartesian_moe_jax.data.tokenizing import Counts
from cartesian_moe_jax.errors import UserError

JOB_BYTES = 2**23
"""Text that a worker tokenises at once."""
JOURNAL, JOURNAL_SECONDS = "journal.json", 5.0
MAX_STREAMS = 2000


class Packing:
    """One packing into a temporary sibling of `target`, renamed once everything is on disk."""

    def __init__(
        self,
        target: Path,
        header: dict[str, Any],
        tokenizer: Tokenizer,
        settings: PackSettings,
    ):
        if settings.shard_tokens < 1:
            raise UserError(f"shard_tokens={settings.shard_tokens} must be at least 1")
        self._target, self._header = target, header
        self._tokenizer, self._settings = tokenizer, settings
        self._folder = target.parent / f".{target.name}.tmp"
        self._dtype = np.dtype("<u2" if tokenizer.vocab_size <= 2**16 else "<u4")
        self._writers: dict[str, ShardWriter] = {}
        self._next, self._seconds = 0, 0.0

    def run(self, source: Source, reading: Reading, split: str) -> None:
        """Pack the documents of a source."""
        started = time.monotonic()
        if self._settings.show:
            label = tokenizer_label(self._tokenizer.identity())
            print(f"preparing {undivided(source)} with {label}", file=sys.stderr)
        self._folder.mkdir(exist_ok=True)
        try:
            found = self._find(source, reading, split)
            self._continue()
            started -= self._seconds
            self._write(found.documents, split, lambda: time.monotonic() - started)
            self._finish(undivided(source), found, time.monotonic() - started)
        except Exception:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        finally:
            for writer in self._writers.values():
                writer.abandon()

    def _find(self, source: Source, reading: Reading, split: str) -> Found:
        reading.folder.parent.mkdir(parents=True, exist_ok=True)
        with (
            locked(reading.folder),
            StageBar("reading   ", source.size(), "B", show=self._settings.show) as bar,
        ):
            return source.find(reading._replace(progress=bar.advance), split)

    def _continue(self) -> None:
        """Take up what a packing that was interrupted left."""
        with contextlib.suppress(OSError, ValueError, KeyError):
            journal = json.loads((self._folder / JOURNAL).read_text(encoding="utf-8"))
            for name, state in journal["streams"].items():
                self._writer(name, state)
            self._next, self._seconds = journal["next"], journal["seconds"]
            return
        self._writers, self._next = {}, 0

    def _writer(self, stream: str, state: dict[str, Any] | None = None) -> ShardWriter:
        if stream not in self._writers:
            if len(self._writers) == MAX_STREAMS:
                raise UserError(
                    f"where= divides the corpus by a field with more than {MAX_STREAMS // 2:,} "
                    f"values, such as {stream.partition('/')[2]!r}: it is meant for domains"
                )
            prefix, _, group = stream.partition("/")
            prefix += f"-group{len(self._writers):04d}" if group else ""
            size = self._settings.shard_tokens * self._dtype.itemsize
            self._writers[stream] = ShardWriter(self._folder, prefix, size, state)
        return self._writers[stream]

    def _write(self, documents: Documents, split: str, seconds: Callable[[], float]) -> None:
        share = self._settings.validation_share
        rule = SplitRule(share) if split else choose_rule(documents, share)
        if not documents.group_field:
            for name in [split] if split else SPLITS:
                self._writer(name)
        last = seconds()
        with StageBar("tokenising", len(documents), "rows", show=self._settings.show) as bar:
            bar.advance(self._next)
            with contextlib.closing(self._tokenized(documents, rule)) as tokenized:
                for request, streams, arrays in tokenized:
                    for (name, facts), tokens in zip(streams.items(), arrays, strict=True):
                        counts, marks = facts
                        self._writer(name).add(Counts(*counts), tokens, Marks.from_text(marks))
                    bar.advance(request["stop"] - self._next)
                    self._next = request["stop"]
                    if seconds() - last > JOURNAL_SECONDS:
                        last = seconds()
                        self._write_journal(last)

    def _tokenized(self, documents: Documents, rule: SplitRule) -> Iterator[tuple]:
        settings = {
            "documents": documents.to_json(),
            "rule": list(rule),
            "tokenizer": self._tokenizer.description(),
            "dtype": self._dtype.str,
        }
        rows = len(documents)
        step = int(min(max(JOB_BYTES / max(documents.bytes_per_row(), 1), 1), 2**16))
        requests = [
            {"start": start, "stop": min(start + step, rows)}
            for start in range(self._next, rows, step)
        ]
        # Closed at once when something fails: it ends the workers.
        with contextlib.closing(
            run_jobs("tokenize", settings, requests, self._settings.workers)
        ) as replies:
            for request, (reply, arrays) in zip(requests, replies, strict=True):
                yield request, reply["streams"], arrays

    def _write_journal(self, seconds: float) -> None:
        streams = {name: writer.state() for name, writer in self._writers.items()}
        journal = {"next": self._next, "seconds": seconds, "streams": streams}
        partial = self._folder / f"{JOURNAL}.partial"
        write_durably(partial, json.dumps(journal))
        partial.replace(self._folder / JOURNAL)

    def _finish(self, spec: str, found: Found, seconds: float) -> None:
        splits = {name: writer.finish() for name, writer in self._writers.items()}
        digests = {n: [s["sha256"] for s in facts["shards"]] for n, facts in splits.items()}
        description = json.dumps(self._tokenizer.description())
        metadata = self._header | {
            "corpus": spec,
            "dtype": self._dtype.str,
            "content_hash": hash_of(digests),
            "broken_lines": found.broken_lines,
            "first_broken": found.first_broken,
            "seconds": seconds,
            "tokenizer_bytes": len(description.encode("utf-8")),
            "splits": splits,
        }
        (self._folder / JOURNAL).unlink(missing_ok=True)
        write_durably(self._folder / TOKENIZER, description)
        write_durably(self._folder / METADATA, json.dumps(metadata, indent=1) + "\n")
        put_in_place(self._folder, self._target, last=METADATA)
