"""The run directory: all that is needed to resume, evaluate or load a run.

config.json      the effective configuration
tokenizer.json   how text became tokens
checkpoints/     Orbax: parameters, optimizer, progress; one folder per step
metrics.jsonl    one JSON object per record; in an object store, parts: metrics/STEP.jsonl
tensorboard/     the same numbers for TensorBoard
result.json      written at the end; result_STEP.json, at an end that the run went on from
.lock            there while a process trains: two are too many
"""

import dataclasses
import json
from typing import Any

from cartesian_moe_jax import config as schema
from cartesian_moe_jax.config import Config
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.paths import (
    AnyPath,
    entries,
    is_file,
    is_remote,
    remove,
    reported,
    scheme_of,
    write_atomically,
)
from cartesian_moe_jax.runs.json_text import json_text
from cartesian_moe_jax.runs.places import other_text, with_absolute_paths, with_text_of
from cartesian_moe_jax.runs.run_lock import LOCK
from cartesian_moe_jax.settings import differences

STORES = ("", "gs")
"""Schemes of the paths that Orbax writes checkpoints to; it knows no other object store."""


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """A folder that holds one run; raises UserError where checkpoints cannot be kept."""

    path: AnyPath

    def __post_init__(self) -> None:
        if scheme_of(self.path) not in STORES:
            raise UserError(
                f"--workdir={self.path} cannot hold a run: "
                "checkpoints are kept in local folders and gs:// alone"
            )

    @classmethod
    def checked(cls, path: AnyPath, config: Config) -> "RunDirectory":
        """Return the run in ``path``, there or yet to be; nothing is written.

        Raises UserError if the folder holds a run of another config (naming the fields that
        differ) or files of something else. Fields of the plan may differ: training decides.
        Where the text lies may differ: that of a checkpoint is compared before training goes on,
        by its hash. Of a finished run nothing is read again.
        """
        run = cls(path)
        if run.has("config.json"):
            kept = run.config()
            changed = differences(kept, config)
            if run.has("result.json"):
                changed += other_text(kept, config)
            if changed:
                raise UserError(
                    f"{path} holds a run of another config ({'; '.join(changed)}): "
                    "choose another --workdir, or the config of that run"
                )
        elif _holds_something(path):
            raise UserError(f"--workdir={path} is not empty and holds no run (no config.json)")
        return run

    def begin(self, config: Config, tokenizer: dict[str, Any]) -> None:
        """Make the folder, and write the config and the tokenizer's description.

        Local paths are kept as absolute ones, for whoever reads them from elsewhere. A result
        that is there, of an end that the run goes on from, gets another name.
        """
        self.make()
        if self.has("result.json"):
            self._put_result_aside()
        config = with_absolute_paths(config)
        if self.has("config.json") and self.newest_step() is not None:
            config = with_text_of(config, self.config())
        self.write_json("config.json", dataclasses.asdict(config))
        self.write_json("tokenizer.json", tokenizer)

    @classmethod
    def of_existing(cls, path: AnyPath) -> "RunDirectory":
        """Open a run that must be there; raises UserError if it is not."""
        run = cls(path)
        if not run.has("config.json"):
            raise UserError(f"{path} holds no run (no config.json)")
        return run

    def has(self, name: str) -> bool:
        """Say whether one of the files is there."""
        return is_file(self.path / name)

    def config(self) -> Config:
        """Read the configuration of the run."""
        return schema.read(self.read_json("config.json"))

    def newest_step(self) -> int | None:
        """Return the step of the newest checkpoint, which may be incomplete; None without one."""
        names = [folder.name for folder in entries(self.checkpoints)]
        return max((int(name) for name in names if name.isdecimal()), default=None)

    def read_json(self, name: str) -> dict[str, Any]:
        """Read one of the JSON files; raises UserError if it is missing or damaged."""
        file = self.path / name
        with reported("read", file):
            content = file.read_bytes()
        try:
            return json.loads(content)
        except ValueError as error:
            raise UserError(f"{file} cannot be read: {error}") from error

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        """Write a JSON file whole or not at all; numbers that are not finite become null."""
        write_atomically(self.path / name, json_text(value, indent=1) + "\n")

    def _put_result_aside(self) -> None:
        result = self.read_json("result.json")
        self.write_json(f"result_{result['steps']}.json", result)
        remove(self.path / "result.json")

    def make(self) -> None:
        """Make the folder, if it is not there."""
        if is_remote(self.path):
            return  # an object store has no folders, and would make a bucket
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--workdir={self.path} cannot be made: {error.strerror}") from error

    @property
    def checkpoints(self) -> AnyPath:
        """The folder of checkpoints."""
        return self.path / "checkpoints"


def _holds_something(path: AnyPath) -> bool:
    """Say whether there is a file, or a folder with more than a run killed as it began leaves."""
    with reported("read", path):
        if not path.exists():
            return False
        if not path.is_dir():
            return True
        return any(file.suffix != ".partial" and file.name != LOCK for file in entries(path))
