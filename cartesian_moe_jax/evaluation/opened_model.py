"""A run's model opened to be evaluated: a checkpoint of it on the devices at hand."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from cartesian_moe_jax.config import Config
from cartesian_moe_jax.data.tokenizers import Tokenizer, build_tokenizer
from cartesian_moe_jax.evaluation.changeable import Changes
from cartesian_moe_jax.evaluation.perplexity import Parameters
from cartesian_moe_jax.evaluation.run_config import changed, mesh_here, with_batch_of
from cartesian_moe_jax.models.build import abstract_model, abstract_parameters
from cartesian_moe_jax.parallel.layouts import Layout, layout_of
from cartesian_moe_jax.parallel.processes import agreed
from cartesian_moe_jax.paths import AnyPath
from cartesian_moe_jax.runs.checkpoint_mesh import batch_parts_of_checkpoint
from cartesian_moe_jax.runs.checkpoints import Checkpoints
from cartesian_moe_jax.runs.directory import RunDirectory
from cartesian_moe_jax.runs.together import require_one_run


class OpenedModel(NamedTuple):
    """A checkpoint on its devices."""

    config: Config
    """The run's, with what was asked for and a batch that fits the devices."""
    parameters: Parameters
    tokenizer: Tokenizer
    mesh: Mesh
    layout: Layout
    step: int
    data_hash: str | None
    """Of what it was trained on; None of a converted checkpoint, of which nobody knows."""


class OpenedCheckpoint(NamedTuple):
    """A checkpoint that was found and is still to be read; its mesh is set."""

    directory: RunDirectory
    config: Config
    changes: Changes
    tokenizer: Tokenizer
    mesh: Mesh
    layout: Layout
    checkpoints: Checkpoints
    step: int

    def read(self) -> OpenedModel:
        """Read it; raises UserError, in all processes, if it does not fit the config."""
        with agreed():
            skeleton = abstract_model(self.config.model, self.layout)
            wanted = abstract_parameters(skeleton, self.layout, self.mesh)
        with agreed():
            items, progress = self.checkpoints.restore(self.step, {"parameters": wanted})
        return OpenedModel(
            self._with_batch(progress),
            items["parameters"],
            self.tokenizer,
            self.mesh,
            self.layout,
            self.step,
            progress.get("data_hash"),
        )

    def _with_batch(self, progress: Mapping[str, Any]) -> Config:
        parts = batch_parts_of_checkpoint(self.directory, self.step)
        trained = progress.get("data_hash") is not None
        return with_batch_of(self.config, self.changes, self.mesh, parts, trained=trained)


@contextlib.contextmanager
def opened_checkpoint(
    workdir: AnyPath, step: int | None, changes: Changes
) -> Iterator[OpenedCheckpoint]:
    """Yield a run's checkpoint, its mesh being set; ``changes``: of the run's config.

    Raises UserError if there is no run or no such checkpoint, or a change is not allowed.
    """
    with agreed():
        run = RunDirectory.of_existing(workdir)
        tokenizer = build_tokenizer(run.read_json("tokenizer.json"))
        config, mesh = mesh_here(changed(run.config(), changes), changes)
        layout = layout_of(config.parallel)
    require_one_run(run, config)
    with Checkpoints(run.checkpoints, read_only=True) as checkpoints, jax.set_mesh(mesh):
        with agreed():
            step = checkpoints.choose(step)
        yield OpenedCheckpoint(run, config, changes, tokenizer, mesh, layout, checkpoints, step)
