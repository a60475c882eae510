"""Which devices exchange data in a collective, and over which mesh axes they lie."""

import itertools
import re
from collections.abc import Mapping, Sequence

import numpy as np

Groups = list[list[int]]
"""Positions in ``mesh.devices.ravel()``, which are what a program of that mesh numbers."""


def groups_of(attributes: str, devices: int) -> Groups:
    """Return the groups of a collective over ``devices``, or the pairs of a permutation.

    XLA writes them as lists, as an iota that is reshaped and transposed, or as axes of a mesh.
    """
    if pairs := re.search(r"source_target_pairs=\{(\{.*?\})\}", attributes):
        return _listed(pairs[1])
    if listed := re.search(r"replica_groups=\{(\{.*?\})\}", attributes):
        return _listed(listed[1])
    iota = r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?"
    if found := re.search(iota, attributes):
        return _iota(found[2], found[3]).reshape(_ints(found[1])).tolist()
    mesh = (
        r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(([^)]*?(?:\([\d,]+\))?)\))? ?\{([^}]*)\}"
    )
    if found := re.search(mesh, attributes):
        return _by_axes(found[1], found[2], found[3])
    return [list(range(devices))]


def axes_of(groups: Groups, mesh: Mapping[str, int]) -> tuple[str, ...]:
    """Return the mesh axes along which the members of a group differ, in the mesh's order."""
    positions = np.stack(np.unravel_index(np.arange(np.prod([*mesh.values()])), [*mesh.values()]))
    differ = np.zeros(len(mesh), bool)
    for members in groups:
        differ |= (positions[:, members] != positions[:, members[:1]]).any(axis=1)
    return tuple(axis for axis, varies in zip(mesh, differ, strict=True) if varies)


def _listed(text: str) -> Groups:
    return [_ints(members) for members in re.findall(r"\{([\d,]+)\}", text)]


def _iota(sizes: str, order: str | None) -> np.ndarray:
    shape = _ints(sizes)
    numbers = np.arange(np.prod(shape)).reshape(shape)
    return numbers.transpose(_ints(order)) if order else numbers


def _by_axes(axes: str, device_ids: str | None, over: str) -> Groups:
    """Read ``mesh['a'=2,'b'=4] {'b'}``: a group for each place along the other axes."""
    names = dict(re.findall(r"'([^']+)'=(\d+)", axes))
    sizes = [int(size) for size in names.values()]
    numbers = np.arange(np.prod(sizes))
    if device_ids:
        iota = re.search(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", device_ids)
        numbers = _iota(iota[1], iota[2]) if iota else np.array(_ints(device_ids))
    parts = re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", over)
    shape: list[int] = []
    members: list[int] = []
    for name, size in zip(names, sizes, strict=True):
        spans = [(int(first or 1), int(own or size)) for part, first, own in parts if part == name]
        for length, chosen in _cut(size, spans):
            members += [len(shape)] if chosen else []
            shape.append(length)
    others = [axis for axis in range(len(shape)) if axis not in members]
    split = numbers.reshape(shape).transpose(*others, *members)
    return split.reshape(-1, int(np.prod([shape[axis] for axis in members]))).tolist()


def _cut(size: int, spans: Sequence[tuple[int, int]]) -> list[tuple[int, bool]]:
    """Cut an axis at the ends of its parts; say of each piece how long it is, and if in a part.

    A part ``'a':(2)4`` is 4 of the axis behind a first 2: the pieces are 2, 4 and the rest.
    """
    ends = sorted({1, size} | {e for first, own in spans for e in (first, first * own)})
    return [
        (end // start, any(first <= start and end <= first * own for first, own in spans))
        for start, end in itertools.pairwise(ends)
    ]


def _ints(text: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", text)]
