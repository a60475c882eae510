"""Records of a run's numbers: JSON lines in metrics.jsonl, or in parts below metrics/."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from cartesian_moe_jax.paths import (
    AnyPath,
    entries,
    is_file,
    remove,
    reported,
    write_atomically,
)
from cartesian_moe_jax.runs.json_text import json_text

FILE, PARTS = "metrics.jsonl", "metrics"


def run_metrics(folder: AnyPath) -> list[dict[str, Any]]:
    """Return all records of the run in ``folder``, by step, in whichever form they are kept.

    A run that was moved between a disk and an object store may have both.
    """
    files = [folder / FILE, *part_files(folder)]
    return sorted((r for file in files for r in read_metrics(file)), key=lambda r: r["step"])


def read_metrics(file: AnyPath) -> Iterator[dict[str, Any]]:
    """Read the records of one file; what is none, as a line cut short by a crash, is left out."""
    if not is_file(file):
        return
    for line in _content(file).splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            yield record


def as_lines(records: Iterable[Mapping[str, Any]]) -> str:
    """Return one line of JSON per record; numbers that are not finite become null."""
    return "".join(json_text(dict(record)) + "\n" for record in records)


def part_file(folder: AnyPath, first_step: int) -> AnyPath:
    """Return the path of the part that begins with ``first_step``."""
    return folder / PARTS / f"{first_step:012d}.jsonl"


def part_files(folder: AnyPath) -> list[AnyPath]:
    """List a run's parts, in the order of their steps, which do not overlap."""
    parts = entries(folder / PARTS)
    return [part for part in parts if part.suffix == ".jsonl" and part.stem.isdecimal()]


def keep_until(folder: AnyPath, position: int) -> None:
    """Remove the records of steps after ``position``, in both forms."""
    _keep_lines(folder / FILE, position)
    parts = part_files(folder)
    begun = [part for part in parts if int(part.stem) <= position]
    for part in parts[len(begun) :]:
        remove(part)
    for part in begun[-1:]:  # those before it end before it begins
        _keep_lines(part, position)


def _keep_lines(file: AnyPath, position: int) -> None:
    if not is_file(file):
        return
    kept = as_lines(record for record in read_metrics(file) if record["step"] <= position)
    if kept.encode("utf-8") != _content(file):
        write_atomically(file, kept)


def _content(file: AnyPath) -> bytes:
    with reported("read", file):
        return file.read_bytes()
