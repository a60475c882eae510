"""Meshes of hosts and slices, on devices that are not there."""

import dataclasses

import numpy as np
import pytest

from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.parallel.device_order import across_groups, arrange
from cartesian_moe_jax.parallel.mesh import fewest_shares


@dataclasses.dataclass(frozen=True)
class Device:
    """What the arrangement reads of a device."""

    id: int
    process_index: int
    slice_index: int = 0
    platform: str = "gpu"
    device_kind: str = "NVIDIA H100"


def hosts(number, each, slices=1):
    return [Device(i, i // each, i // each * slices // number) for i in range(number * each)]


def crossed(mesh, kind):
    """Along which axes of a mesh the groups of its devices change."""
    group = np.vectorize(lambda device: getattr(device, kind))(mesh)
    return tuple(bool(np.ptp(group, axis=axis).any()) for axis in range(mesh.ndim))


@pytest.mark.parametrize(
    "sizes, groups, across",
    [
        ((8, 1, 4), 4, (4, 1, 1)),
        ((2, 1, 16), 4, (2, 1, 2)),
        ((1, 4, 8), 4, (1, 4, 1)),
        ((6, 1, 6), 4, (2, 1, 2)),
        ((1, 1, 8), 8, (1, 1, 8)),
    ],
)
def test_groups_lie_along_the_first_axes_that_have_room(sizes, groups, across):
    assert across_groups(sizes, groups) == across


def test_hosts_are_crossed_by_the_first_axis_alone():
    # As devices may be listed: not in the order of the hosts.
    devices = sorted(hosts(4, 8), key=lambda device: device.id % 8)
    mesh = arrange(devices, (4, 1, 8))
    assert crossed(mesh, "process_index") == (True, False, False)
    assert {device.id for device in mesh.flat} == set(range(32))
    assert crossed(arrange(devices, (2, 1, 16)), "process_index") == (True, False, True)


def test_slices_go_before_hosts():
    mesh = arrange(hosts(8, 4, slices=2), (2, 4, 4))
    assert crossed(mesh, "slice_index") == (True, False, False)
    assert crossed(mesh, "process_index")[1:] == (True, False)


def test_groups_of_different_sizes_are_refused():
    with pytest.raises(UserError, match=r"process_index.* of different sizes, \[3, 4\]"):
        arrange(hosts(2, 4)[:7], (7, 1, 1))


@pytest.mark.parametrize(
    "held, parts, shares",
    [
        ([0, 1, 2, 3], 4, [(0, 1)]),
        ([4, 5], 8, [(2, 4)]),
        ([1, 2], 4, [(1, 4), (2, 4)]),
        ([0, 1, 8, 9], 64, [(0, 32), (4, 32)]),
        ([0, 4, 16, 20], 64, [(0, 64), (4, 64), (16, 64), (20, 64)]),
        ([3], 6, [(3, 6)]),
    ],
)
def test_the_fewest_shares_of_a_batch(held, parts, shares):
    assert fewest_shares(held, parts) == shares
