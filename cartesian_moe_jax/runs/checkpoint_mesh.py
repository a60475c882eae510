"""The mesh of devices that wrote a checkpoint."""

import math
from typing import Any

import orbax.checkpoint as ocp
from etils import epath

from cartesian_moe_jax.parallel.axes import BATCH_AXES
from cartesian_moe_jax.paths import absolute
from cartesian_moe_jax.runs.directory import RunDirectory


def batch_parts_of_checkpoint(run: RunDirectory, step: int) -> int | None:
    """Return how many parts the batch was split into; None if the checkpoint does not say."""
    folder = epath.Path(absolute(run.checkpoints / str(step) / "parameters"))
    try:
        arrays = ocp.StandardCheckpointHandler().metadata(folder).values()
        sharding: Any = next(iter(arrays)).sharding
        sizes = dict(zip(sharding.axis_names, map(int, sharding.shape), strict=True))
    except Exception:  # whatever Orbax makes of checkpoints that others, or later versions, wrote
        return None
    return math.prod(sizes.get(axis, 1) for axis in BATCH_AXES)
