"""A tensorflow-datasets catalogue entry, or a prepared folder, as a source."""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from cartesian_moe_jax.data.documents import Documents
from cartesian_moe_jax.data.sources.catalogue import fingerprint_of, open_builder
from cartesian_moe_jax.data.sources.source import Found, Options, Reading, spec_of
from cartesian_moe_jax.data.splits import EVERYTHING, SPLITS
from cartesian_moe_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Tfds:
    """A tensorflow-datasets catalogue entry, or a prepared folder."""

    place: str
    options: Options = Options()
    kind: ClassVar[str] = "tfds"
    allowed: ClassVar[tuple[str, ...]] = ("field", "where", "split", "name")

    def fingerprint(self, reading: Reading) -> Any:
        """Return the dataset's files (names, sizes, times) and what is read of them."""
        builder, _ = open_builder(self._place(), reading.tfds_dir)
        options = dataclasses.asdict(self.options) | {"name": "", "where": self.options.group[0]}
        return [fingerprint_of(builder), options]

    def size(self) -> int:
        """Return 0: it is prepared, and read in place."""
        return 0

    def find(self, reading: Reading, split: str) -> Found:
        """Return the documents of the dataset's own splits."""
        builder, place = open_builder(self._place(), reading.tfds_dir)
        known = list(builder.info.splits or ())
        rows_and_splits = self._parts(split, known)
        for rows, _ in rows_and_splits:
            for name in (part.partition("[")[0].strip() for part in rows.split("+")):
                _require(self, "split", name, [*known, EVERYTHING])
        fields = self.options.field, self.options.group[0]
        for field in filter(None, fields):
            _require(self, "field", field, list(builder.info.features))
        _require(self, "text field", self.options.field, _text_fields(builder))
        datasets = tuple(place._replace(rows=r, split=s) for r, s in rows_and_splits)
        return Found(Documents(datasets, *fields))

    def _parts(self, split: str, known: list[str]) -> list[tuple[str, str]]:
        """Return what is read, and the split it goes to."""
        if split in (SPLITS[0], EVERYTHING):
            return [(self.options.split or split, split)]
        if split:
            return [(split, split)]
        if not self.options.split and set(SPLITS) <= set(known):
            return [(name, name) for name in SPLITS]
        return [(self.options.split or SPLITS[0], "")]

    def _place(self) -> str:
        if not self.place:
            raise UserError(
                "corpus 'tfds:' needs a catalogue name or the folder of a prepared dataset"
            )
        return self.place


def _text_fields(builder: Any) -> list[str]:
    """Return the features whose values are single texts."""
    features = builder.info.features.items()
    return [name for name, f in features if f.shape == () and np.dtype(f.np_dtype) == object]


def _require(source: Any, what: str, value: str, present: list[str]) -> None:
    if value not in present:
        raise UserError(
            f"corpus {spec_of(source)!r} has no {what} {value!r}; present: {', '.join(present)}"
        )
