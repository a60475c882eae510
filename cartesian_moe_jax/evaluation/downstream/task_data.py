"""A task's rows from a folder, for machines without network: FOLDER/TASK/SPLIT.jsonl or .csv."""

import csv
import glob
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.evaluation.downstream.paper_tasks import Table

QUESTIONS = ("test_split", "validation_split")
"""Fields of a definition that name the questions; where there are both, the first."""
EXAMPLES = ("fewshot_split", "training_split")
"""Those that name the rows which examples are drawn from, in the same order."""


def fields_of(
    folder: Path, task: str, definition: Mapping[str, Any], table: Table | None, scratch: Path
) -> dict[str, Any]:
    """Return the fields of a task's definition that name its data.

    Of each split that the definition names the file is taken, if there is one (``train`` where it
    names none to learn from). A CSV in the form of ``table`` is written to ``scratch`` as rows of
    the harness. Raises UserError if no file has questions, and for a line that is no row.
    """
    splits = {role: definition.get(role) for role in (*QUESTIONS, *EXAMPLES)}
    splits["training_split"] = splits["training_split"] or "train"
    kinds = (".jsonl", ".csv") if table else (".jsonl",)
    files = {split: _file_of(folder / task, split, kinds) for split in splits.values() if split}
    files = {split: file for split, file in files.items() if file}
    asked = [splits[role] for role in QUESTIONS if splits[role]]
    if not files.keys() & set(asked):
        wanted = " or ".join(f"{split}{kind}" for split in asked for kind in kinds)
        raise UserError(
            f"tasks_data={folder} has no questions of {task!r}: {folder / task}/ with {wanted}"
        )
    rows = {
        split: _checked(file, table, scratch / f"{task}.{split}.jsonl")
        for split, file in files.items()
    }
    return {
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {
            "data_files": {split: glob.escape(str(file.resolve())) for split, file in rows.items()},
            "cache_dir": str(scratch / "rows"),
        },
        **{role: split if split in files else None for role, split in splits.items()},
    }


def _file_of(folder: Path, split: str, kinds: tuple[str, ...]) -> Path | None:
    found = [file for kind in kinds if (file := folder / f"{split}{kind}").is_file()]
    if len(found) > 1:
        raise UserError(f"{found[0]} and {found[1]} are the same rows twice: keep one")
    return found[0] if found else None


def _checked(file: Path, table: Table | None, to: Path) -> Path:
    try:
        if table and file.suffix == ".csv":
            return _as_jsonl(file, table, to)
        _check_lines(file)
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8") from error
    return file


def _check_lines(file: Path) -> None:
    """Raise UserError for a line that is no row, or lacks a field that the first one has."""
    fields: set[str] = set()
    with open(file, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                row = None
            if not isinstance(row, dict):
                raise UserError(f"{file}: line {number} is no JSON object")
            if lacking := fields - row.keys():
                raise UserError(f"{file}: line {number} lacks {', '.join(sorted(lacking))}")
            fields = fields or set(row)
    if not fields:
        raise UserError(f"{file} has no rows")


def _as_jsonl(file: Path, table: Table, to: Path) -> Path:
    with open(file, newline="", encoding="utf-8-sig") as lines:
        rows = list(csv.DictReader(lines))
    if lacking := set(table.columns) - set(rows[0] if rows else ()):
        raise UserError(f"{file} lacks rows, or the columns {', '.join(sorted(lacking))}")
    with open(to, "w", encoding="utf-8") as out:
        for number, row in enumerate(rows, 1):
            if None in row or None in row.values():
                raise UserError(f"{file}: row {number} has not as many values as there are columns")
            fields: dict[str, str | int] = {
                table.columns.get(name, name): value for name, value in row.items()
            }
            for name in table.numbers:
                if not str(fields[name]).isdecimal():
                    raise UserError(f"{file}: row {number} has {name}={fields[name]!r}: no number")
                fields[name] = int(fields[name])
            out.write(json.dumps(fields) + "\n")
    return to
