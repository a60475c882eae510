"""Tasks by their names in the harness: the paper's, and all others that it has."""

import contextlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cartesian_moe_jax.errors import UserError, nearest
from cartesian_moe_jax.evaluation.downstream.library import as_its_command_does, library
from cartesian_moe_jax.evaluation.downstream.paper_tasks import PAPER_TASKS, PaperTask
from cartesian_moe_jax.evaluation.downstream.task_data import fields_of

PAPER = "paper"
"""Stands for all tasks of the paper's Table 2."""
FEWSHOT_SEED = 1234
"""Chooses the examples before a question; that of the harness's command."""

_OTHER = PaperTask("", "")


class Defined(NamedTuple):
    """A task, or a group of tasks, with its rows."""

    name: str
    loaded: dict[str, Any]
    """What the harness evaluates."""


def names_of(asked: str) -> list[str]:
    """Return the names in a comma-separated list, each once; raises UserError if there is none."""
    names = [name.strip() for name in asked.split(",") if name.strip()]
    if not names:
        raise UserError(f"tasks={asked!r} is not allowed: `paper`, or names of the harness's tasks")
    return list(
        dict.fromkeys(n for name in names for n in (PAPER_TASKS if name == PAPER else [name]))
    )


@contextlib.contextmanager
def defined(
    names: Sequence[str],
    folder: Path | None = None,
    shots: int | None = None,
    *,
    show: bool = False,
) -> Iterator[list[Defined]]:
    """Yield the tasks, with their rows read from ``folder`` or, without one, had by network.

    ``shots``: solved examples before each question; None: as the paper asks, or the task's own.
    ``show``: the progress of what comes by network.
    Raises UserError for a task that is unknown, or whose rows cannot be had.
    """
    with tempfile.TemporaryDirectory() as scratch:
        with as_its_command_does(show=show and folder is None):
            files = _files(names)
            for name, file in files.items():
                if folder is not None and file is None:
                    raise UserError(f"tasks={name!r} is a group: with tasks_data name its tasks")
            tasks = [_defined(n, file, folder, shots, Path(scratch)) for n, file in files.items()]
        yield tasks


def _files(names: Sequence[str]) -> dict[str, Path | None]:
    """Return the file that defines each; None for a group or a tag of several tasks."""
    folder = Path(library("tasks").__file__).parent
    known = {name: folder / PAPER_TASKS[name].file for name in names if name in PAPER_TASKS}
    if len(known) == len(names):
        return known  # making an index of all takes seconds
    manager = library("tasks").TaskManager()
    for name in names:
        if name not in manager.task_index:
            close = nearest(name, manager.all_tasks)
            raise UserError(f"tasks={name!r} is unknown to the harness{close}")
    tasks = set(manager.all_subtasks)
    paths = {name: manager.task_index[name].yaml_path if name in tasks else None for name in names}
    return paths | known


def _defined(
    name: str, file: Path | None, folder: Path | None, shots: int | None, scratch: Path
) -> Defined:
    task = PAPER_TASKS.get(name, _OTHER)
    try:
        if file is None:
            loaded = library("tasks").TaskManager().load([name])
        else:
            definition = _indexed(name, file, {}, scratch / "harness").task_index[name].cfg
            fields = fields_of(folder, name, definition, task.table, scratch) if folder else {}
            fields |= task.repairs if shots or (shots is None and task.shots) else {}
            loaded = _indexed(name, file, fields, scratch / "ours").load([name])
    except UserError:
        raise
    except Exception as error:  # of any kind: datasets, the network, a definition's own code
        raise UserError(f"tasks={name!r}: {_cause(error)}{_hint(folder)}") from error
    asked = task.shots if shots is None and name in PAPER_TASKS else shots
    for each in loaded["tasks"].values():
        if asked is not None:
            each.set_config(key="num_fewshot", value=asked)
        elif each.get_config("num_fewshot") is None:
            each.set_config(key="num_fewshot", value=0)
        each.set_fewshot_seed(seed=FEWSHOT_SEED)
        _require_examples(name, each, own_rows=folder is not None)
    return Defined(name, loaded)


def _require_examples(name: str, task: Any, *, own_rows: bool) -> None:
    """Raise UserError unless there are more rows to draw examples from than are wanted.

    Without rows for training the harness draws from the questions, and may show the right answer.
    """
    shots = task.get_config("num_fewshot")
    if not shots:
        return
    given = getattr(task.get_config("fewshot_config"), "samples", None)
    if own_rows and not (given or task.has_training_docs() or task.get_config("fewshot_split")):
        raise UserError(
            f"tasks={name!r} with shots={shots} needs {name}/train.jsonl in tasks_data, to draw "
            "examples from; or shots=0"
        )
    rows = len(task.sampler.df)
    if rows <= shots:
        raise UserError(f"tasks={name!r}: shots={shots} of {rows} rows: fewer wanted")


def _indexed(name: str, file: Path, fields: dict[str, Any], scratch: Path) -> Any:
    """Return a manager of one task: what ``file`` defines, with these fields."""
    folder = scratch / name
    folder.mkdir(parents=True)
    text = json.dumps({"include": str(file), "task": name, **fields})  # JSON is YAML
    (folder / "definition.yaml").write_text(text)
    return library("tasks").TaskManager(include_path=str(folder), include_defaults=False)


def _cause(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _hint(folder: Path | None) -> str:
    return "" if folder else "; without network, give its rows by tasks_data"
