"""Evaluation of a run from its directory."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from cartesian_moe_jax.cache import cache_folder
from cartesian_moe_jax.config import Config, ParallelConfig
from cartesian_moe_jax.data.packing import prepare
from cartesian_moe_jax.data.tokenizers import build_tokenizer
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.evaluation.evaluator import Evaluator
from cartesian_moe_jax.models.build import abstract_parameters, layout_named
from cartesian_moe_jax.parallel.mesh import make_mesh
from cartesian_moe_jax.runs.checkpoints import Checkpoints
from cartesian_moe_jax.runs.directory import RunDirectory


def evaluate_run(workdir: Path, step: int | None = None) -> dict[str, Any]:
    """Measure a checkpoint on the run's validation split; also written to evaluation.json.

    Raises UserError if there is no run, no such checkpoint, or the data cannot be had.
    """
    run = RunDirectory.of_existing(workdir)
    config = run.config()
    tokenizer = build_tokenizer(run.read_json("tokenizer.json"))
    config, mesh = _fit_devices(config)
    layout = layout_named(config.parallel.layout)
    with Checkpoints(run.checkpoints, read_only=True) as checkpoints, jax.set_mesh(mesh):
        step = checkpoints.choose(step)
        data = config.data
        corpus = prepare(
            data.corpus, tokenizer, cache_folder(data.cache_dir, "data"), data.validation_share
        )
        evaluator = Evaluator(config, corpus, mesh, layout)
        wanted = abstract_parameters(evaluator.skeleton, layout, mesh)
        items, _ = checkpoints.restore(step, {"parameters": wanted})
        measured = evaluator.perplexity(items["parameters"])
    result = {"step": step, "corpus": data.corpus, "split": "validation", **measured.as_dict()}
    if jax.process_index() == 0:
        run.write_json("evaluation.json", result)
    return result


def _fit_devices(config: Config) -> tuple[Config, Mesh]:
    """Return the run's mesh where it fits the devices here, else all of them on the data axis."""
    try:
        return config, make_mesh(config.parallel)
    except UserError:
        here = ParallelConfig()
        return dataclasses.replace(config, parallel=here), make_mesh(here)
