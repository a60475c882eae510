"""Where a run's first parameters come from, if not from its seed: another run, or a checkpoint."""

import re
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax
from jaxtyping import Array, Float

from cartesian_moe_jax.config import Config, ModelConfig
from cartesian_moe_jax.data.tokenizers import Tokenizer, build_tokenizer, require_same_tokenizer
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.interop.official_model import check_official, is_official, read_parameters
from cartesian_moe_jax.interop.tokenizer_files import find_tokenizer
from cartesian_moe_jax.models.build import abstract_model
from cartesian_moe_jax.models.parameters import named_parameters
from cartesian_moe_jax.parallel.layouts import LAYOUTS
from cartesian_moe_jax.paths import AnyPath, absolute, as_path
from cartesian_moe_jax.runs.checkpoints import Checkpoints
from cartesian_moe_jax.runs.directory import RunDirectory
from cartesian_moe_jax.settings import differences

NOT_OF_WHAT_IS_COMPUTED = {
    *("model.init_std", "model.compute_dtype", "model.remat", "model.unroll", "model.loss_chunk"),
    *("model.moe.backend", "model.moe.balance_loss", "model.moe.z_loss"),
}
"""Fields that say how a model is made, trained, or computed."""

Shapes = Mapping[str, jax.ShapeDtypeStruct]


@runtime_checkable
class Source(Protocol):
    """A checkpoint that parameters are taken from; opening it raises UserError if it is none."""

    folder: AnyPath
    step: int

    def tokenizer(self) -> Tokenizer | None:
        """Return the tokenizer of its text, if it has one."""

    def check(self, wanted: Shapes) -> ModelConfig:
        """Return what its model is; raises UserError unless its parameters are ``wanted``."""

    def read(self, wanted: Shapes) -> dict[str, Float[Array, "..."]]:
        """Read its parameters, each device its part of them, laid out as ``wanted`` says."""


class OfRun:
    """A checkpoint of a run directory."""

    def __init__(self, folder: AnyPath, step: int | None):
        self.folder, self._run = folder, RunDirectory.of_existing(folder)
        with self._checkpoints() as checkpoints:
            self.step = checkpoints.choose(step)

    def tokenizer(self) -> Tokenizer:
        """Return the run's own."""
        return build_tokenizer(self._run.read_json("tokenizer.json"))

    def check(self, wanted: Shapes) -> ModelConfig:
        """Compare what the checkpoint says of its arrays."""
        with self._checkpoints() as checkpoints:
            checkpoints.check_fit(self.step, {"parameters": wanted})
        return self._run.config().model

    def read(self, wanted: Shapes) -> dict[str, Float[Array, "..."]]:
        """Restore the parameters alone."""
        with self._checkpoints() as checkpoints:
            items, _ = checkpoints.restore(self.step, {"parameters": wanted})
        return items["parameters"]

    def _checkpoints(self) -> Checkpoints:
        return Checkpoints(self._run.checkpoints, read_only=True)


class OfOfficial:
    """A checkpoint in the official format; it has one step, 0."""

    def __init__(self, folder: AnyPath, step: int | None):
        if step:
            raise UserError(f"step={step} has no checkpoint in {folder}: it holds one, of step 0")
        self.folder, self.step = folder, 0

    def tokenizer(self) -> Tokenizer | None:
        """Return the one that lies beside it."""
        return find_tokenizer(self.folder)

    def check(self, wanted: Shapes) -> ModelConfig:
        """Compare with the model that its config describes."""
        return check_official(self.folder, wanted).model

    def read(self, wanted: Shapes) -> dict[str, Float[Array, "..."]]:
        """Put one parameter after the other together."""
        return read_parameters(self.folder, wanted)


class Initial:
    """The source that ``config.training.initial`` names, checked against the config."""

    def __init__(self, config: Config, tokenizer: Tokenizer):
        """Raises UserError if it is none, or its model or its tokenizer is another."""
        where = f"config.training.initial={config.training.initial}"
        skeleton = abstract_model(config.model, LAYOUTS["data"])
        try:
            self._source = _source(config.training.initial)
            theirs = self._source.tokenizer()
            model = self._source.check(named_parameters(skeleton))
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        if theirs is not None:
            ours = f"config.data.tokenizer={config.data.tokenizer}"
            require_same_tokenizer(theirs.identity(), where, tokenizer.identity(), ours)
        self._changes = _changes(model, config.model)

    @property
    def step(self) -> int:
        """The step of the checkpoint."""
        return self._source.step

    @property
    def facts(self) -> dict[str, Any]:
        """Which checkpoint it is: what the run keeps of it."""
        return {"from": str(absolute(self._source.folder)), "step": self.step}

    def lines(self) -> list[str]:
        """Say what the run begins with, and what it computes otherwise with it."""
        lines = [f"initial     step {self.step} of {self._source.folder}"]
        if self._changes:
            lines.append(f"note: the model computes otherwise: {'; '.join(self._changes)}")
        return lines

    def read(self, wanted: Shapes) -> dict[str, Float[Array, "..."]]:
        """Read the parameters, laid out as ``wanted`` says; raises UserError if they are gone."""
        return self._source.read(wanted)


def _changes(theirs: ModelConfig, ours: ModelConfig) -> list[str]:
    """List what computes other numbers from the same parameters."""
    changes = differences(theirs, ours, "model.")
    return [line for line in changes if line.split(":")[0] not in NOT_OF_WHAT_IS_COMPUTED]


def _source(setting: str) -> Source:
    folder, step = re.fullmatch(r"(.*?)(?:@(\d+))?", setting).groups()
    path = as_path(folder)
    kind = OfOfficial if is_official(path) else OfRun
    return kind(path, int(step) if step else None)
