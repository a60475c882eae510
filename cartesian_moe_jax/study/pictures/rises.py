"""How much the loss rises when experts are disabled."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cartesian_moe_jax.study.pictures.style import color, drawing, label, svg_of

MARKERS = ("o", "s", "^")


def draw_rises(points: Mapping[str, Mapping[int, Sequence[float]]]) -> bytes:
    """Draw variant -> number of disabled experts -> rises (nats per token, one a seed) as SVG."""
    counts = list(next(iter(points.values())))
    with drawing(1.4 + 0.62 * len(points)) as figure:
        axes = figure.subplots()
        for row, (variant, by_count) in enumerate(points.items()):
            for place, count in enumerate(counts):
                y = row + 0.24 * (place - (len(counts) - 1) / 2)
                _draw_seeds(axes, by_count[count], y, color(variant), MARKERS[place % 3])
        for place, count in enumerate(counts):
            marker = MARKERS[place % 3]
            axes.plot([], [], marker, color="#444444", markersize=5, label=f"top-{count}")
        axes.set_yticks(range(len(points)), [label(variant) for variant in points])
        axes.set_ylim(len(points) - 0.5, -0.5)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_xlabel("rise of the loss, nats per token")
        figure.legend(loc="outside upper right", ncols=len(counts), title="disabled")
        return svg_of(figure)


def _draw_seeds(axes: Any, rises: Sequence[float], y: float, shade: str, marker: str) -> None:
    if rises:
        axes.plot(rises, [y] * len(rises), marker, color=shade, markersize=5, alpha=0.75)
        axes.plot([np.mean(rises)] * 2, [y - 0.11, y + 0.11], color=shade, linewidth=2)
