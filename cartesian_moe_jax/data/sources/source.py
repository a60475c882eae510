"""What a source of documents is: a place, options, and how its documents are found."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from cartesian_moe_jax.data.documents import Documents


class Reading(NamedTuple):
    """How sources are read."""

    folder: Path
    """Where local text is kept as tensorflow-datasets."""
    tfds_dir: str = ""
    """Where catalogue names are prepared; empty: where tensorflow-datasets has them."""
    skip_broken: bool = False
    workers: int = 1
    progress: Callable[[int], None] = lambda count: None
    """Called with the number of bytes read since the last call."""


class Found(NamedTuple):
    """The documents of a source, and what was wrong with others."""

    documents: Documents
    broken_lines: int = 0
    first_broken: str = ""


@dataclasses.dataclass(frozen=True)
class Options:
    """What may follow a source's place; see the module's docstring."""

    field: str = "text"
    where: str = ""
    split: str = ""
    name: str = ""

    @property
    def group(self) -> tuple[str, str]:
        """The field and value of `where`; both empty without one."""
        field, _, value = self.where.partition(":")
        return field, value


@runtime_checkable
class Source(Protocol):
    """A place that documents come from, in the same order each time."""

    kind: ClassVar[str]
    allowed: ClassVar[tuple[str, ...]]
    """The options that it takes."""
    place: str
    options: Options

    def fingerprint(self, reading: Reading) -> Any:
        """Return JSON data that changes when the documents do; no document is read."""

    def size(self) -> int:
        """Return the bytes that `find` will read, for a progress bar; 0: nothing to read."""

    def find(self, reading: Reading, split: str) -> Found:
        """Return the documents, reading them into a dataset first where that is needed.

        `split`: all documents go to this one: `train` (nothing is held out), `all`, or a split of
        a tensorflow-datasets dataset. Empty: train and validation, by the dataset's own splits
        where it has both and no other are asked for, else by each document's hash.
        """


def spec_of(source: Any) -> str:
    """Return the string that `parse_source` turns into this source."""
    options = {k: v for k, v in dataclasses.asdict(source.options).items() if v}
    if options.get("field") == Options.field:
        del options["field"]
    given = [*filter(None, [source.place]), *(f"{k}={v}" for k, v in options.items())]
    return f"{source.kind}:{','.join(given)}" if given else source.kind


def undivided(source: Any) -> str:
    """Return the spec of all that is packed together: whatever value `where` asks for."""
    options = dataclasses.replace(source.options, where=source.options.group[0], name="")
    return spec_of(dataclasses.replace(source, options=options))


def hash_of(value: Any) -> str:
    """Return the sha256 of JSON data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("utf-8")).hexdigest()
