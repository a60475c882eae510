"""The device mesh: one device is a mesh of one."""

import math
from collections.abc import Sequence

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from cartesian_moe_jax.config import ParallelConfig
from cartesian_moe_jax.errors import UserError

AXES = ("data", "fsdp", "expert")
"""Mesh axes. The batch is split over all of them in every layout."""

BATCH = PartitionSpec(AXES)


def make_mesh(parallel: ParallelConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Arrange the devices (default: all) as the config says; raises UserError if they don't fit."""
    devices = jax.devices() if devices is None else list(devices)
    sizes = _sizes({axis: getattr(parallel, axis) for axis in AXES}, len(devices))
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def single_device_mesh() -> Mesh:
    """Return a mesh of the first local device."""
    devices = jax.local_devices()[:1]
    ones = (1,) * len(AXES)
    return jax.make_mesh(ones, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def current_mesh() -> Mesh | AbstractMesh:
    """Return the mesh of the enclosing ``jax.set_mesh``, or a mesh of one device without one."""
    mesh = jax.sharding.get_abstract_mesh()
    return single_device_mesh() if mesh.empty else mesh


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of arrays whose first axis is the batch."""
    return NamedSharding(mesh, BATCH)


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def _sizes(wanted: dict[str, int], devices: int) -> tuple[int, ...]:
    """Replace the one -1 by the devices that the other axes leave."""
    shown = ", ".join(f"{axis}={size}" for axis, size in wanted.items())
    fixed = math.prod(size for size in wanted.values() if size != -1)
    rest = [axis for axis, size in wanted.items() if size == -1]
    if len(rest) > 1:
        raise UserError(f"config.parallel has {shown}: only one axis may be -1 (the rest)")
    if devices % fixed or (not rest and fixed != devices):
        raise UserError(f"config.parallel has {shown}: does not fit {devices} devices")
    return tuple(devices // fixed if size == -1 else size for size in wanted.values())
