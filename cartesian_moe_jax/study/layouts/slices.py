"""What a TPU program sends to other slices: not by collectives, but through its host.

The compiler cuts a collective over several slices in two: one within each slice, and a ``send`` of
what is left to a runtime (MegaScale) that does the rest over the data centre's network.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from cartesian_moe_jax.study.layouts.links import Place
from cartesian_moe_jax.study.layouts.program import Instruction

TRANSFERS: Mapping[str, str] = {
    "ALL_REDUCE": "all-reduce",
    "ALL_GATHER": "all-gather",
    "REDUCE_SCATTER": "reduce-scatter",
    "ALL_TO_ALL": "all-to-all",
}
"""The collective that the runtime does; of any other transfer each device sends to one."""

_TYPE = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
_TARGET = re.compile(r'_xla_megascale_target="\{([\d,:]*)\}')


def kind_between_slices(instruction: Instruction) -> str | None:
    """Return the kind of collective that a ``send`` takes part in; None if it is no such send."""
    found = _TYPE.search(instruction.attributes) if instruction.opcode == "send" else None
    return TRANSFERS.get(found[1], "collective-permute") if found else None


def slices_of(instruction: Instruction, places: Sequence[Place]) -> int:
    """Return how many slices take part: those that it names, as in ``{0:3,6}``, or all."""
    named = _TARGET.search(instruction.attributes)
    if not (named and named[1]):
        return len({place.cell for place in places})
    ranges = [[int(end) for end in part.split(":")] for part in named[1].split(",")]
    return sum(ends[-1] - ends[0] + 1 for ends in ranges)


def axes_between_slices(places: Sequence[Place], mesh: Mapping[str, int]) -> tuple[str, ...]:
    """Return the mesh axes along which one comes to other slices."""
    cells = np.array([place.cell for place in places]).reshape([*mesh.values()])
    crossed = (np.diff(cells, axis=index).any() for index in range(len(mesh)))
    return tuple(axis for axis, crosses in zip(mesh, crossed, strict=True) if crosses)
