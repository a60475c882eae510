"""The parameters of a run alone, without what training needs besides."""

from typing import Any

from jaxtyping import Array, Float

from cartesian_moe_jax.config import Config
from cartesian_moe_jax.models.build import abstract_model, abstract_parameters
from cartesian_moe_jax.parallel.layouts import LAYOUTS
from cartesian_moe_jax.parallel.mesh import single_device_mesh
from cartesian_moe_jax.runs.checkpoints import Checkpoints
from cartesian_moe_jax.runs.directory import RunDirectory

Parameters = dict[str, Float[Array, "..."]]


def load_run(run: RunDirectory, step: int | None = None) -> tuple[Config, Parameters, int]:
    """Restore the newest checkpoint, or that of ``step``, onto one device; also say which it is.

    Raises UserError if there is no such checkpoint, or it does not fit the run's config.
    """
    config, layout = run.config(), LAYOUTS["data"]
    wanted = abstract_parameters(abstract_model(config.model, layout), layout, single_device_mesh())
    with Checkpoints(run.checkpoints, read_only=True) as checkpoints:
        step = checkpoints.choose(step)
        items, _ = checkpoints.restore(step, {"parameters": wanted})
    return config, items["parameters"], step


def write_run(
    run: RunDirectory,
    config: Config,
    parameters: Parameters,
    tokenizer: dict[str, Any],
    source: str,
) -> None:
    """Write a run with one checkpoint, of step 0: to evaluate and load, not to train on."""
    run.begin(config, tokenizer)
    with Checkpoints(run.checkpoints) as checkpoints:
        checkpoints.save(0, {"parameters": parameters}, {"source": source})
