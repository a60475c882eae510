"""The device mesh: one device is a mesh of one."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped

from cartesian_moe_jax.config import ModelConfig, ParallelConfig
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.parallel.axes import AXES, BATCH, BATCH_AXES, EXPERT, TENSOR
from cartesian_moe_jax.parallel.device_order import arrange
from cartesian_moe_jax.parallel.layouts import layout_of

FAST_GROUP = 8
"""Most devices on the expert and tensor axes that are used unasked: a host of GPUs. Tensor's sums
are waited for in every layer, and the more devices hold experts, the more a token has to visit."""


class SplitDimension(NamedTuple):
    """A dimension of a parameter that a layout splits."""

    size: int
    axes: tuple[str, ...]
    """Mesh axes that split it: their sizes together must divide its own."""


def make_mesh(
    parallel: ParallelConfig,
    devices: Sequence[jax.Device] | None = None,
    useful: Mapping[str, int] | None = None,
    split: Collection[SplitDimension] = (),
) -> Mesh:
    """Arrange the devices (default: all) as the config says; raises UserError if they don't fit.

    ``useful``, ``split``: how many devices a model can use along an axis; see ``mesh_sizes``.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = tuple(mesh_sizes(parallel, len(devices), useful or {}, split).values())
    return Mesh(arrange(devices, sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def useful_sizes(model: ModelConfig) -> dict[str, int]:
    """Return how many devices a model can use along the axes that split its parts."""
    most = {EXPERT: model.moe.num_experts, TENSOR: model.num_heads}
    return {axis: math.gcd(size, FAST_GROUP) for axis, size in most.items()}


def mesh_sizes(
    parallel: ParallelConfig,
    devices: int,
    useful: Mapping[str, int],
    split: Collection[SplitDimension] = (),
) -> dict[str, int]:
    """Return the size of every mesh axis.

    A size of 0 in the config leaves it to the layout (``Layout.fills``), which gives an axis as
    many of the devices left as divide its ``useful`` size (all where it has none) and what it
    splits of the model, and what is left over to ``data``; -1 takes all that the others leave.
    """
    asked = {axis: getattr(parallel, axis) for axis in AXES}
    shown = ", ".join(f"{axis}={size}" for axis, size in asked.items())
    rest = [axis for axis, size in asked.items() if size == -1]
    if len(rest) > 1:
        raise UserError(f"config.parallel has {shown}: only one axis may be -1 (the rest)")
    sizes = {axis: max(size, 1) for axis, size in asked.items()}
    left = devices // math.prod(sizes.values())
    takers = [axis for axis in layout_of(parallel).fills if asked[axis] == 0]
    # Behind them what has no bound: the axis that was asked to take the rest, or data.
    for axis in [a for a in takers if a in useful or not rest] + (rest or ["data"]):
        if asked[axis] <= 0 and sizes[axis] == 1:
            most = math.gcd(useful.get(axis, left), *_parts_left(axis, sizes, split))
            sizes[axis] = left if axis in ("data", *rest) else math.gcd(left, most)
            left //= max(sizes[axis], 1)
    if math.prod(sizes.values()) != devices:
        raise UserError(f"config.parallel has {shown}: does not fit {devices} devices")
    return sizes


def _parts_left(
    axis: str, sizes: Mapping[str, int], split: Collection[SplitDimension]
) -> list[int]:
    """Return what the other axes, of these sizes, leave of each dimension that ``axis`` splits."""
    return [
        dimension.size // math.prod(sizes[other] for other in dimension.axes if other != axis)
        for dimension in split
        if axis in dimension.axes
    ]


def single_device_mesh() -> Mesh:
    """Return a mesh of the first local device."""
    return make_mesh(ParallelConfig(), jax.local_devices()[:1])


def current_mesh() -> Mesh | AbstractMesh:
    """Return the mesh of the enclosing ``jax.set_mesh``, or a mesh of one device without one.

    Raises UserError for a mesh that is not like those of ``make_mesh``.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return single_device_mesh()
    if missing := [axis for axis in AXES if axis not in mesh.shape]:
        raise UserError(
            f"the mesh in force has the axes {', '.join(mesh.axis_names) or 'none'} and lacks "
            f"{', '.join(missing)}: make it by cartesian_moe_jax.make_mesh"
        )
    if mesh.explicit_axes:
        raise UserError(
            f"the mesh in force has the explicit axes {', '.join(mesh.explicit_axes)}: they must "
            "be automatic, as those of cartesian_moe_jax.make_mesh"
        )
    return mesh


def batch_parts(mesh: Mesh | AbstractMesh) -> int:
    """Return how many parts the batch is split into."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def mesh_for(tokens: int) -> Mesh | AbstractMesh:
    """Return ``current_mesh``; raises UserError if its devices cannot have as many tokens each."""
    mesh = current_mesh()
    if tokens % batch_parts(mesh):
        raise UserError(
            f"{tokens} tokens do not divide among {batch_parts(mesh)} devices (mesh axes "
            f"{', '.join(BATCH_AXES)})"
        )
    return mesh


def batch_shares(mesh: Mesh) -> list[tuple[int, int]]:
    """Return the shares of the batch that this process's devices hold, each (index, of how many).

    One share where they are neighbours, which on a torus of TPUs they often are not. Processes
    along the tensor axis hold the same.
    """
    parts = batch_parts(mesh)
    held = batch_sharding(mesh).addressable_devices_indices_map((parts,)).values()
    return fewest_shares(sorted({rows[0].indices(parts)[0] for rows in held}), parts)


def fewest_shares(held: Sequence[int], parts: int) -> list[tuple[int, int]]:
    """Return ``held``, some of ``parts`` in order, as few equal shares: (index, of how many)."""
    lengths = (n for n in range(len(held), 0, -1) if len(held) % n == parts % n == 0)
    for length in lengths:
        firsts = held[::length]
        whole = [first + i for first in firsts for i in range(length)]
        if whole == list(held) and not any(first % length for first in firsts):
            break
    return [(first // length, parts // length) for first in firsts]


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of arrays whose first axis is the batch."""
    return NamedSharding(mesh, BATCH)


def over_batch(x: Shaped[Array, "batch ..."]) -> Shaped[Array, "batch ..."]:
    """Return x, split along its first axis as the batch is and whole along the others."""
    mesh = current_mesh()
    if mesh.size == 1 or x.shape[0] % batch_parts(mesh):
        return x
    return jax.lax.with_sharding_constraint(x, BATCH)


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())
