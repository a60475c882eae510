"""The devices of a mesh as their links see them: who is near whom, and by which links."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from cartesian_moe_jax.parallel.chips import Links
from cartesian_moe_jax.study.layouts.groups import Groups


@dataclasses.dataclass(frozen=True)
class Place:
    """Where one device is."""

    cell: int
    """Its slice (TPU) or its host (GPU): links inside are near, those between are far."""
    coordinates: tuple[int, ...] = ()
    """In the torus of its slice; empty where there is none."""


def places_of(mesh: Mesh, links: Links) -> list[Place]:
    """Return the places of a mesh's devices in the order in which its programs number them."""
    return [_place(device, links) for device in mesh.devices.ravel()]


def cells(members: Sequence[int], places: Sequence[Place]) -> int:
    """Return over how many slices or hosts a group is spread."""
    return len({places[member].cell for member in members})


def near_share(groups: Groups, places: Sequence[Place], links: Links) -> float:
    """Return which share of a device's near links a collective can use.

    In a torus it is the dimensions along which its groups extend: a ring along one of three
    dimensions leaves the links of the two others idle.
    """
    if not links.torus:
        return 1.0
    extended: set[int] = set()
    for members in groups:
        at = np.array([places[member].coordinates for member in members])
        extended |= set(np.flatnonzero((at != at[0]).any(axis=0)).tolist())
    return max(len(extended), 1) / links.torus


def _place(device: jax.Device, links: Links) -> Place:
    if not links.torus:
        return Place(device.process_index)  # a switch joins the devices of a host
    coordinates = tuple(device.coords)[: links.torus]
    return Place(getattr(device, "slice_index", 0) or 0, coordinates)
