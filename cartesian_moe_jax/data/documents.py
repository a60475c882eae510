"""Documents as random-access rows of tensorflow-datasets folders: what packing reads."""

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.paths import as_path

# What the datasets that we write of local text have beside the text.
SPLIT_KEY, GROUP, ENDS = "split_key", "group", "ends"
KEY_CHARACTERS = 2**16
BLOCK_ROWS = 64
"""Rows read at once: a row alone costs three times as much."""


class Document(NamedTuple):
    """A text, or one of the consecutive pieces of a long one."""

    text: str
    split_key: str
    """Decides the split: the hash of its text, or of its first piece's."""
    group: str = ""
    """The value of the field that divides the corpus, if one does."""
    ends: bool = True
    """An end-of-text token follows: this is all of it, or its last piece."""


def split_key(text: str) -> str:
    """Return 16 hexadecimal digits, the same for the same text on every machine.

    Only the first KEY_CHARACTERS count: a long text has the key of its first piece.
    """
    start = text[:KEY_CHARACTERS].encode("utf-8", errors="replace")
    return hashlib.blake2b(start, digest_size=8).hexdigest()


class Dataset(NamedTuple):
    """One prepared dataset, and what of it is read."""

    name: str
    """The folder of one version, or a catalogue name."""
    data_dir: str = ""
    """Where a catalogue name lies; empty for a folder."""
    rows: str = "train"
    """A split of the dataset, or a split expression such as `train[:10%]`."""
    split: str = ""
    """The split that its documents go to; empty: each goes where its hash says."""

    def builder(self) -> Any:
        """Open it; needs no TensorFlow."""
        import tensorflow_datasets as tfds

        if self.data_dir:
            return tfds.builder(self.name, data_dir=self.data_dir, try_gcs=False)
        return tfds.builder_from_directory(str(as_path(self.name)))


@dataclasses.dataclass(frozen=True)
class Documents:
    """The rows of several datasets in sequence, by index.

    Attributes:
        datasets: what is read, in this order.
        text_field: the feature that holds the text.
        group_field: the feature whose values divide the corpus; empty: it is not divided.
        lengths: rows of each dataset, where they are known.
    """

    datasets: tuple[Dataset, ...]
    text_field: str = "text"
    group_field: str = ""
    lengths: tuple[int, ...] = ()

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Documents":
        """Undo `to_json`."""
        datasets = tuple(Dataset(*fields) for fields in value["datasets"])
        return cls(datasets, value["text_field"], value["group_field"], tuple(value["lengths"]))

    def to_json(self) -> dict[str, Any]:
        """Return JSON data from which another process opens the same documents."""
        lengths = [stop - start for start, stop in itertools.pairwise(self._starts)]
        datasets = [list(dataset) for dataset in self.datasets]
        return dataclasses.asdict(self) | {"datasets": datasets, "lengths": lengths}

    def __len__(self) -> int:
        """Number of rows: documents, or pieces of long ones."""
        return self._starts[-1]

    def bytes_per_row(self) -> float:
        """Return the mean size of a row as the datasets state it (not of what is read of them)."""
        splits = [split for d in self.datasets for split in d.builder().info.splits.values()]
        rows = sum(split.num_examples for split in splits)
        return sum(split.num_bytes for split in splits) / max(rows, 1)

    def read(self, start: int, stop: int) -> Iterator[tuple[str, Document]]:
        """Yield rows [start, stop) with the split of their dataset (empty: none)."""
        for dataset, (begin, end) in zip(
            self.datasets, itertools.pairwise(self._starts), strict=True
        ):
            first, last = max(start, begin) - begin, min(stop, end) - begin
            if first >= last:
                continue
            # Opened anew each time: a source that is kept would keep its files open.
            source = _open_rows(dataset)
            for block in range(first, last, BLOCK_ROWS):
                keys = range(block, min(block + BLOCK_ROWS, last))
                for row in source.__getitems__(list(keys)):
                    yield dataset.split, self._document(row)

    def _document(self, row: dict[str, Any]) -> Document:
        text = _text(row[self.text_field])
        if SPLIT_KEY in row:
            key, group = _text(row[SPLIT_KEY]), _text(row[GROUP])
            return Document(text, key, group, bool(row[ENDS]))
        group = _text(row[self.group_field]) if self.group_field else ""
        return Document(text, split_key(text), group)

    @functools.cached_property
    def _starts(self) -> list[int]:
        lengths = self.lengths or (len(_open_rows(dataset)) for dataset in self.datasets)
        return list(itertools.accumulate(lengths, initial=0))


def _open_rows(dataset: Dataset) -> Any:
    try:
        return dataset.builder().as_data_source(dataset.rows)
    except (ValueError, KeyError, AssertionError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{dataset.name}: cannot read split={dataset.rows!r}: {reason}") from None


def _text(value: Any) -> str:
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)
