"""Inside ``shard_map``: bring together what a layout splits over devices that need all of it."""

from collections.abc import Collection, Sequence

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import AbstractMesh, Mesh, PartitionSpec
from jaxtyping import Array, Float

from cartesian_moe_jax.parallel.axes import TENSOR
from cartesian_moe_jax.parallel.layouts import mesh_axes

GATHERED = "gathered_weights"
"""The name by which the backward pass knows what it should gather again, not keep."""


def gather_parts(
    parameter: Float[Array, "..."],
    spec: PartitionSpec,
    logical_axes: Sequence[str],
    kept: Collection[tuple[str, str | None]],
    mesh: Mesh | AbstractMesh,
    dtype: jnp.dtype,
) -> Float[Array, "..."]:
    """Return the parameter, in ``dtype`` where it moves; gradients are summed into the parts.

    ``kept`` lists what stays split: pairs of a logical axis and the mesh axis.
    """
    # Of a dimension split over two axes, the later one splits the parts of the earlier.
    moves = [
        (dim, axis)
        for dim, entry in enumerate(spec)
        for axis in reversed(mesh_axes(entry))
        if (logical_axes[dim], axis) not in kept and mesh.shape[axis] > 1
    ]
    if not moves:
        return parameter
    parameter = parameter.astype(dtype)
    for dim, axis in moves:
        # Along ``tensor`` devices do the same with it: the whole is one value, and so is its
        # gradient, of which each takes its part.
        to = "invarying" if axis == TENSOR else "varying"
        parameter = jax.lax.all_gather(parameter, axis, axis=dim, tiled=True, to=to)
    return checkpoint_name(parameter, GATHERED)
