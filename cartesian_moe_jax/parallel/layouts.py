"""A layout is a value: which mesh axis splits each logical axis, and how tokens reach experts."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from cartesian_moe_jax.config import ParallelConfig
from cartesian_moe_jax.errors import UserError, lookup
from cartesian_moe_jax.parallel.axes import AXES, BATCH_AXES, EXPERT, TENSOR

MeshAxes = str | tuple[str, ...] | None


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one model lies on a mesh.

    ``rules`` maps a logical axis of a parameter to the mesh axes that split it; axes not named
    are whole on every device. ``exchange`` names how tokens reach their experts (moe/dispatch).
    """

    rules: Mapping[str, MeshAxes]
    exchange: str = "local"
    fills: tuple[str, ...] = ("data",)
    """Mesh axes that get the devices where the config says nothing: each as many as the model can
    use, in this order, and the last one all that are left."""
    bucket_factor: float = 2.0
    """How much more than an even share a device may send to another in training; 0: anything."""

    def __post_init__(self):
        object.__setattr__(self, "rules", MappingProxyType(dict(self.rules)))

    def __reduce__(self):
        # A read-only view of a dict can be neither copied nor pickled.
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return functools.partial(Layout, **fields | {"rules": dict(self.rules)}), ()

    def __hash__(self):
        rules = frozenset(self.rules.items())
        return hash((rules, self.exchange, self.fills, self.bucket_factor))

    def splits(self, logical_axis: str) -> tuple[str, ...]:
        """Return the mesh axes that split a logical axis."""
        return mesh_axes(self.rules.get(logical_axis))


_FSDP = {"d_model": "fsdp", "expert_d_model": "fsdp"}
_EXPERT = {"experts": EXPERT}
_TENSOR = dict.fromkeys(("heads", "d_ff", "d_expert", "vocab"), TENSOR)

LAYOUTS: Mapping[str, Layout] = {
    "data": Layout({}),
    "fsdp": Layout(_FSDP, fills=("fsdp",)),
    "expert": Layout(_EXPERT, "all_to_all", fills=(EXPERT, "data")),
    "expert_fsdp": Layout(
        _EXPERT | _FSDP | {"d_model": ("fsdp", EXPERT)}, "all_to_all", fills=(EXPERT, "fsdp")
    ),
    "tensor": Layout(_TENSOR, fills=(TENSOR, "data")),
    "expert_tensor": Layout(_TENSOR | _EXPERT, "all_to_all", fills=(TENSOR, EXPERT, "data")),
}
"""The layouts that ``config.parallel.layout`` names."""


def layout_of(parallel: ParallelConfig) -> Layout:
    """Return the layout that the config describes; raises UserError for a name it does not know."""
    layout = lookup(LAYOUTS, parallel.layout, "config.parallel.layout")
    return dataclasses.replace(
        layout,
        rules=parse_rules(parallel.rules) if parallel.rules else layout.rules,
        exchange=parallel.exchange or layout.exchange,
        bucket_factor=parallel.bucket_factor,
    )


def parse_rules(text: str) -> dict[str, MeshAxes]:
    """Read ``LOGICAL=MESH[+MESH],...`` as in ``experts=expert,d_model=fsdp+expert``."""
    rules: dict[str, MeshAxes] = {}
    for rule in text.split(","):
        logical, _, axes = rule.strip().partition("=")
        lookup(dict.fromkeys(LOGICAL), logical, "config.parallel.rules: logical axis")
        names = tuple(axes.split("+"))
        for name in names:
            lookup(dict.fromkeys(AXES), name, f"config.parallel.rules: mesh axis of {logical!r}")
        if TENSOR in names[1:]:
            raise UserError(f"config.parallel.rules={text!r}: {TENSOR} must come first in {axes!r}")
        rules[logical] = names[0] if len(names) == 1 else names
    return rules


LOGICAL = (
    "vocab",
    "d_model",
    "heads",
    "d_ff",
    "experts",
    "expert_d_model",
    "d_expert",
)
"""Logical axes that a rule may split: of parameters in models/parameters.py."""


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
        for axis in mesh_axes(entry):
            if axis in users:
                raise UserError(
                    f"{name}: mesh axis {axis!r} would split both {users[axis]!r} and {logical!r}"
                )
            users[axis] = logical
        parts = math.prod(mesh.shape[axis] for axis in mesh_axes(entry))
        if size % parts:
            raise UserError(
                f"{name}: {logical}={size} is not divisible by mesh axis {entry!r} of size {parts}"
            )
    return PartitionSpec(*entries)


def without_batch_axes(spec: PartitionSpec) -> PartitionSpec:
    """Return how a parameter is split where it is used: tokens differ along the batch axes."""
    kept = (tuple(a for a in mesh_axes(entry) if a not in BATCH_AXES) for entry in spec)
    return PartitionSpec(*(axes or None for axes in kept))


def only_batch_axes(spec: PartitionSpec) -> PartitionSpec:
    """Return how a parameter is split along the batch axes alone."""
    kept = (tuple(a for a in mesh_axes(entry) if a in BATCH_AXES) for entry in spec)
    return PartitionSpec(*(axes or None for axes in kept))


def mesh_axes(entry: MeshAxes) -> tuple[str, ...]:
    """Return the mesh axes of one entry of a PartitionSpec."""
    return () if entry is None else (entry,) if isinstance(entry, str) else entry
