"""How many bytes one device sends in a collective, over near and over far links.

A group has m members in each of c cells (slices, hosts), and a device puts in s bytes. Bandwidth
bounds, by the best known algorithms (rings; between cells, each device handles its own 1/m):

                     near                      far
all-gather           c s (m - 1)               s (c - 1)
reduce-scatter       s (m - 1)/m               s/m (c - 1)/c
all-reduce           2 s (m - 1)/m             2 s/m (c - 1)/c
all-to-all           s (m - 1)/(m c)           s (c - 1)/c
collective-permute   s, or nothing             nothing, or s if any pair crosses
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

Number = int | float


class Sent(NamedTuple):
    """Bytes that one device sends."""

    near: Number
    far: Number

    def times(self, count: Number) -> "Sent":
        """Return what ``count`` of these send."""
        return Sent(self.near * count, self.far * count)


def _all_gather(s: Number, m: Number, c: int) -> Sent:
    return Sent(c * s * (m - 1), s * (c - 1))


def _reduce_scatter(s: Number, m: Number, c: int) -> Sent:
    return Sent(s * (m - 1) / m, s / m * (c - 1) / c)


def _all_reduce(s: Number, m: Number, c: int) -> Sent:
    return _reduce_scatter(s, m, c).times(2)


def _all_to_all(s: Number, m: Number, c: int) -> Sent:
    return Sent(s * (m - 1) / (m * c), s * (c - 1) / c)


def _permute(s: Number, m: Number, c: int) -> Sent:
    return Sent(s, 0.0) if c == 1 else Sent(0.0, s)


KINDS: Mapping[str, Callable[[Number, Number, int], Sent]] = MappingProxyType(
    {
        "all-gather": _all_gather,
        "reduce-scatter": _reduce_scatter,
        "all-reduce": _all_reduce,
        "all-to-all": _all_to_all,
        # What it sends depends on the routing: at most, and if evenly spread, all that it is given.
        "ragged-all-to-all": _all_to_all,
        "collective-permute": _permute,
        "collective-broadcast": _permute,
    }
)
"""By kind of collective: bytes put in, members of a cell, cells."""
