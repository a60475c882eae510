"""Which device lies where in a mesh: slow links between groups of devices are crossed outermost."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.experimental import mesh_utils

from cartesian_moe_jax.errors import UserError

Devices = np.ndarray[Any, np.dtype[np.object_]]


def arrange(devices: Sequence[Any], sizes: Sequence[int]) -> Devices:
    """Return the devices as an array of these sizes, whose product is their number.

    The first axes go across groups (TPU slices, hosts of GPUs), so that the last ones, whose
    devices exchange most, stay within one. Within a slice of TPUs, neighbours in the mesh are
    neighbours in the torus where that can be had.
    Raises UserError if groups are of different sizes.
    """
    kind = _group_kind(devices)
    if kind is None:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    groups = [getattr(device, kind) for device in devices]
    number = len(set(groups))
    if any(groups.count(group) * number != len(devices) for group in set(groups)):
        counts = sorted(groups.count(group) for group in set(groups))
        raise UserError(
            f"the devices are in groups ({kind}) of different sizes, {counts}: a mesh needs equal "
            "ones"
        )
    across = across_groups(sizes, number)
    within = [size // outer for size, outer in zip(sizes, across, strict=True)]
    return mesh_utils.create_hybrid_device_mesh(
        within,
        across,
        devices,
        process_is_granule=kind == "process_index",
        allow_split_physical_axes=True,
    )


def across_groups(sizes: Sequence[int], groups: int) -> tuple[int, ...]:
    """Return how many groups lie along each axis: as many as fit along the first, and so on."""
    across, left = [], groups
    for size in sizes:
        across.append(math.gcd(size, left))
        left //= across[-1]
    return tuple(across)


def _group_kind(devices: Sequence[Any]) -> str | None:
    """Return the attribute that tells groups apart; None: there is one group, or a TPU slice."""
    if len({getattr(device, "slice_index", 0) for device in devices}) > 1:
        return "slice_index"
    several = len({device.process_index for device in devices}) > 1
    return "process_index" if several and devices[0].platform != "tpu" else None
