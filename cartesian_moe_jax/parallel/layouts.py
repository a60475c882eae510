"""A layout is a value: which mesh axis splits each logical axis, and how tokens reach experts."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from cartesian_moe_jax.errors import UserError

MeshAxes = str | tuple[str, ...] | None


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one model lies on a mesh.

    ``rules`` maps a logical axis of a parameter to the mesh axis that splits it; axes not named
    are whole on every device. ``exchange`` names how tokens reach their experts (moe/dispatch).
    """

    rules: Mapping[str, MeshAxes]
    exchange: str

    def __post_init__(self):
        object.__setattr__(self, "rules", MappingProxyType(dict(self.rules)))

    def __hash__(self):
        return hash((frozenset(self.rules.items()), self.exchange))


LAYOUTS: Mapping[str, Layout] = {
    "data": Layout({}, exchange="local"),
    "fsdp": Layout({"d_model": "fsdp"}, exchange="local"),
    "expert": Layout({"experts": "expert"}, exchange="gather"),
}
"""The layouts that ``config.parallel.layout`` names."""


def partition_spec(
    layout: Layout,
    mesh: Mesh | AbstractMesh,
    logical_axes: Sequence[str],
    shape: Sequence[int],
    name: str,
) -> PartitionSpec:
    """Return how a parameter of this shape and these logical axes is split.

    Raises UserError naming the parameter and the axes if a mesh axis would split two of its
    dimensions, or does not divide one.
    """
    entries = tuple(layout.rules.get(axis) for axis in logical_axes)
    users: dict[str, str] = {}
    for entry, logical, size in zip(entries, logical_axes, shape, strict=True):
        for axis in _names(entry):
            if axis in users:
                raise UserError(
                    f"{name}: mesh axis {axis!r} would split both {users[axis]!r} and {logical!r}"
                )
            users[axis] = logical
        parts = math.prod(mesh.shape[axis] for axis in _names(entry))
        if size % parts:
            raise UserError(
                f"{name}: {logical}={size} is not divisible by mesh axis {entry!r} of size {parts}"
            )
    return PartitionSpec(*entries)


def _names(entry: MeshAxes) -> tuple[str, ...]:
    return () if entry is None else (entry,) if isinstance(entry, str) else entry
