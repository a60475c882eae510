"""One run directory for all processes: that they see the same in it, and one writes."""

import dataclasses
import json
import time
from typing import Any

from cartesian_moe_jax.config import Config
from cartesian_moe_jax.errors import AgreedError, UserError
from cartesian_moe_jax.parallel.processes import agreed, is_first, texts_of_all
from cartesian_moe_jax.runs.directory import RunDirectory

OF_A_MACHINE = {
    "config.data.cache_dir",
    "config.data.tfds_dir",
    "config.data.workers",
    "config.training.compilation_cache",
}
"""Fields that may differ between processes."""

SEEN_SECONDS = 60.0
"""A network file system may show a new file that late."""


def require_one_run(run: RunDirectory, config: Config) -> None:
    """Raise UserError, in all processes, unless all see the same in ``run`` and have one config."""
    fields = _flat(dataclasses.asdict(config), "config")
    facts = {name: value for name, value in fields.items() if name not in OF_A_MACHINE}
    facts["what the run directory holds"] = _content(run)
    first, *others = map(json.loads, texts_of_all(json.dumps(facts)))
    for number, other in enumerate(others, start=1):
        for name, value in other.items():
            if value != first[name]:
                raise AgreedError(
                    f"{name} is not the same for all processes: {first[name]!r} for process 0, "
                    f"{value!r} for process {number}"
                )


def begin(run: RunDirectory, config: Config, tokenizer: dict[str, Any]) -> None:
    """Let the first process begin the run; raises UserError, in all, if not all see what it wrote.

    ``tokenizer`` is the tokenizer's description.
    """
    with agreed():
        if is_first():
            run.begin(config, tokenizer)
    with agreed():
        end = time.monotonic() + SEEN_SECONDS
        while not run.has("config.json"):
            if time.monotonic() > end:
                raise UserError(
                    f"--workdir={run.path} is not the folder that process 0 writes to: all "
                    "processes need one that they share, or gs://"
                )
            time.sleep(0.5)


def _content(run: RunDirectory) -> str:
    if not run.has("config.json"):
        return "no run"
    if run.has("result.json"):
        return "a finished run"
    newest = run.newest_step()
    return "a run without checkpoints" if newest is None else f"a run until step {newest}"


def _flat(values: dict[str, Any], path: str) -> dict[str, Any]:
    flat = {}
    for name, value in values.items():
        inner = _flat(value, f"{path}.{name}") if isinstance(value, dict) else None
        flat |= inner if inner is not None else {f"{path}.{name}": value}
    return flat
