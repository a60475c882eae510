"""Depth as a list of segments: a pattern of layers and how often it repeats."""

from collections.abc import Sequence
from typing import NamedTuple

from cartesian_moe_jax.config import MoEConfig


class SegmentShape(NamedTuple):
    """``pattern`` (kinds of layer), ``repeats`` times. A repeated pattern is compiled once."""

    pattern: tuple[str, ...]
    repeats: int


def layer_kinds(num_layers: int, moe: MoEConfig) -> tuple[str, ...]:
    """Name each layer's kind: from first_layer + offset on, every interval-th is ``moe.layer``."""
    first = moe.first_layer + moe.offset
    return tuple(
        moe.layer if moe.interval and i >= first and (i - first) % moe.interval == 0 else "dense"
        for i in range(num_layers)
    )


def segments(kinds: Sequence[str]) -> list[SegmentShape]:
    """Cut the layers into few segments: greedily, the longest repetition that starts here.

    ``m d m d m`` gives ``(m d) x 2, (m) x 1``.
    """
    cut, start = [], 0
    while start < len(kinds):
        rest = tuple(kinds[start:])
        shapes = [_repetition(rest, length) for length in range(1, len(rest) // 2 + 1)]
        repeated = [shape for shape in shapes if shape.repeats > 1]
        best = max(repeated, key=_layers, default=SegmentShape(rest[:1], 1))
        cut.append(best)
        start += _layers(best)
    return cut


def _repetition(kinds: tuple[str, ...], length: int) -> SegmentShape:
    """Count how often the first ``length`` layers repeat from the start."""
    pattern, repeats = kinds[:length], 1
    while kinds[repeats * length : (repeats + 1) * length] == pattern:
        repeats += 1
    return SegmentShape(pattern, repeats)


def _layers(shape: SegmentShape) -> int:
    return len(shape.pattern) * shape.repeats
