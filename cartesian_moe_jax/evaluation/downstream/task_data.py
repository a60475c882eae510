"""A task's rows from a folder, for machines without network: FOLDER/TASK/SPLIT.jsonl or .csv."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cartesian_moe_jax.errors import UserError

SPLITS = ("train", "validation", "test")
"""As the tasks themselves name them; examples to learn from are drawn from the first there is."""
KINDS = (".jsonl", ".csv")


def files_of(folder: Path, task: str) -> dict[str, Path]:
    """Return a task's file of each split that there is; raises UserError if none has questions."""
    candidates = {split: [folder / task / f"{split}{kind}" for kind in KINDS] for split in SPLITS}
    found = {split: [f for f in files if f.is_file()] for split, files in candidates.items()}
    if several := [files for files in found.values() if len(files) > 1]:
        raise UserError(f"{several[0][0]} and {several[0][1]} are the same rows twice: keep one")
    files = {split: files[0] for split, files in found.items() if files}
    if files.keys() & set(SPLITS[1:]):
        return files
    wanted = " or ".join(f"{split}{kind}" for split in SPLITS[1:] for kind in KINDS)
    raise UserError(f"tasks_data={folder} has no rows of {task!r}: {folder / task}/ with {wanted}")


def fields_of(folder: Path, task: str, columns: Mapping[str, str], scratch: Path) -> dict[str, Any]:
    """Return the fields of a task's definition that name its data.

    A CSV whose columns have other names (``columns``) is written to ``scratch`` with the
    harness's. Raises UserError as ``files_of`` does, for a CSV that lacks one, and for a line that
    is no row.
    """
    files = files_of(folder, task)
    for file in files.values():
        if file.suffix == ".jsonl":
            _check_lines(file)
    rows = {
        split: _as_jsonl(file, columns, scratch / f"{task}.{split}.jsonl")
        if file.suffix == ".csv"
        else file
        for split, file in files.items()
    }
    splits = {"training": "train", "validation": "validation", "test": "test"}
    return {
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {
            "data_files": {split: str(file.resolve()) for split, file in rows.items()},
            "cache_dir": str(scratch / "rows"),
        },
        **{f"{name}_split": s if s in rows else None for name, s in splits.items()},
    }


def _check_lines(file: Path) -> None:
    count = 0
    try:
        with open(file, encoding="utf-8") as lines:
            for count, line in enumerate(lines, 1):
                if not isinstance(json.loads(line), dict):
                    raise UserError(f"{file}: line {count} is no JSON object")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{file}: line {count} is no JSON object") from error
    if not count:
        raise UserError(f"{file} has no rows")


def _as_jsonl(file: Path, columns: Mapping[str, str], to: Path) -> Path:
    with open(file, newline="", encoding="utf-8-sig") as lines:
        rows = [
            {columns.get(name, name): value for name, value in row.items()}
            for row in csv.DictReader(lines)
        ]
    wanted = set(columns.values())
    if not rows or wanted - set(rows[0]):
        lacking = ", ".join(sorted(wanted - set(rows[0] if rows else {}))) or "rows"
        raise UserError(f"{file} lacks {lacking}")
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():
            raise UserError(f"{file}: row {number} has not as many values as there are columns")
    to.write_text("".join(json.dumps(_with_numbers(row)) + "\n" for row in rows))
    return to


def _with_numbers(row: Mapping[str, str]) -> dict[str, str | int]:
    return {name: int(value) if value.isdecimal() else value for name, value in row.items()}
