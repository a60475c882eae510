"""The run directory: all that is needed to resume, evaluate or load a run.

config.json      the effective configuration
tokenizer.json   how text became tokens
checkpoints/     Orbax: parameters, optimizer, progress; one folder per step
metrics.jsonl    one JSON object per record
tensorboard/     the same numbers for TensorBoard
result.json      written at the end
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from cartesian_moe_jax import config as schema
from cartesian_moe_jax.config import Config
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.settings import differences


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """A folder that holds one run."""

    path: Path

    @classmethod
    def checked(cls, path: Path, config: Config) -> "RunDirectory":
        """Return the run in ``path``, there or yet to be; nothing is written.

        Raises UserError if the folder holds a run of another config (naming the fields that
        differ) or files of something else.
        """
        run = cls(path)
        if run.has("config.json"):
            changed = differences(run.config(), config)
            if changed:
                raise UserError(
                    f"{path} holds a run of another config ({'; '.join(changed)}): "
                    "choose another --workdir, or the config of that run"
                )
        elif path.exists() and (not path.is_dir() or _foreign_files(path)):
            raise UserError(f"--workdir={path} is not empty and holds no run (no config.json)")
        return run

    def begin(self, config: Config, tokenizer: dict[str, Any]) -> None:
        """Make the folder, and write the config and the tokenizer's description."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--workdir={self.path} cannot be made: {error.strerror}") from error
        self.write_json("config.json", dataclasses.asdict(config))
        self.write_json("tokenizer.json", tokenizer)

    @classmethod
    def of_existing(cls, path: Path) -> "RunDirectory":
        """Open a run that must be there; raises UserError if it is not."""
        run = cls(path)
        if not run.has("config.json"):
            raise UserError(f"{path} holds no run (no config.json)")
        return run

    def has(self, name: str) -> bool:
        """Say whether one of the files is there."""
        return (self.path / name).is_file()

    def config(self) -> Config:
        """Read the configuration of the run."""
        return schema.read(self.read_json("config.json"))

    def read_json(self, name: str) -> dict[str, Any]:
        """Read one of the JSON files; raises UserError if it is missing or damaged."""
        file = self.path / name
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{file} cannot be read: {error}") from error

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        """Write a JSON file whole or not at all."""
        file = self.path / name
        temporary = file.with_suffix(".partial")
        try:
            with temporary.open("w", encoding="utf-8") as stream:
                json.dump(value, stream, indent=1)
                stream.write("\n")
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(file)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"


def _foreign_files(folder: Path) -> list[Path]:
    """List what is not left over from a run that was killed as it began."""
    return [file for file in folder.iterdir() if file.suffix != ".partial"]
