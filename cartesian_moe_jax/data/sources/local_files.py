"""Text files, one document each, and JSON lines, one document a line, as a source."""

import dataclasses
import functools
from typing import Any, ClassVar

from cartesian_moe_jax.data.documents import Documents
from cartesian_moe_jax.data.sources.files import InputFile, find_files, stdlib_files
from cartesian_moe_jax.data.sources.local_text import TEXT, read_files
from cartesian_moe_jax.data.sources.rows import Fields
from cartesian_moe_jax.data.sources.source import Found, Options, Reading, spec_of
from cartesian_moe_jax.data.splits import EVERYTHING, SPLITS
from cartesian_moe_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class LocalFiles:
    """Text files, one document each, and JSON lines, one document a line."""

    place: str
    options: Options = Options()
    kind: ClassVar[str] = "text"
    allowed: ClassVar[tuple[str, ...]] = ("field", "where", "name")

    @functools.cached_property
    def files(self) -> list[InputFile]:
        """The files that the patterns find; looked for once."""
        patterns = tuple(p.strip() for p in self.place.split(",") if p.strip())
        if not patterns:
            raise UserError("corpus 'text:' needs a file, folder or glob, as in text:/data/*.txt")
        return find_files(patterns)

    def fingerprint(self, reading: Reading) -> Any:
        """Return the files' paths, sizes and times, and how they are read."""
        fields = [self.options.field, self.options.group[0]]
        return [[list(f) for f in self.files], fields, reading.skip_broken]

    def size(self) -> int:
        """Return the size of the files."""
        return sum(file.size for file in self.files)

    def find(self, reading: Reading, split: str) -> Found:
        """Return the documents, read into datasets of array_record format."""
        if split not in ("", SPLITS[0], EVERYTHING):
            allowed = ", ".join((*SPLITS, EVERYTHING))
            raise UserError(f"split={split!r} is unknown in {spec_of(self)!r}: allowed: {allowed}")
        group_field = self.options.group[0]
        read = read_files(
            self.files,
            Fields(self.options.field, group_field),
            reading.folder,
            skip_broken=reading.skip_broken,
            workers=reading.workers,
            progress=reading.progress,
        )
        datasets = tuple(dataset._replace(split=split) for dataset in read.datasets)
        documents = Documents(datasets, TEXT, group_field)
        return Found(documents, read.broken_lines, read.first_broken)


class PythonStdlib(LocalFiles):
    """The sources of the running Python's standard library."""

    kind: ClassVar[str] = "python_stdlib"
    allowed: ClassVar[tuple[str, ...]] = ("name",)

    @functools.cached_property
    def files(self) -> list[InputFile]:
        """The non-test sources."""
        if self.place:
            raise UserError(f"corpus {spec_of(self)!r}: python_stdlib names no files")
        return list(stdlib_files())
