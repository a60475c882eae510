"""How evenly experts are used."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from cartesian_moe_jax.study.pictures.style import color, drawing, label, svg_of

COLUMNS = 2
SHADES = (1.0, 0.45)
"""The opacity of a sub-layer's points, in turn."""

Loads = Sequence[Sequence[Float[np.ndarray, "points"]]]
"""[MoE layers][sub-layers]: loads of all experts of all seeds, as multiples of the even one."""


def draw_loads(loads: Mapping[str, Loads]) -> bytes:
    """Draw a panel for each variant as SVG: one strip of points for each layer and sub-layer."""
    rows = -(-len(loads) // COLUMNS)
    highest = max(strip.max() for layers in loads.values() for layer in layers for strip in layer)
    with drawing(0.8 + 1.85 * rows) as figure:
        panels = figure.subplots(rows, COLUMNS, sharey=True, squeeze=False).ravel()
        for axes, (variant, layers) in zip(panels, loads.items(), strict=False):
            _draw_strips(axes, layers, color(variant))
            axes.axhline(1, color="black", linewidth=0.8)
            axes.set_title(label(variant, 23))
            axes.set_ylim(0, 1.05 * highest)
        for axes in panels[len(loads) :]:
            axes.set_visible(False)
        figure.supxlabel("MoE layer.sub-layer", fontsize=10.5)
        figure.supylabel("load of an expert / even load", fontsize=10.5)
        return svg_of(figure)


def _draw_strips(axes: Any, layers: Loads, shade: str) -> None:
    names = []
    for layer, sublayers in enumerate(layers):
        for sublayer, strip in enumerate(sublayers):
            spread = np.linspace(-0.25, 0.25, len(strip))
            axes.plot(
                len(names) + spread,
                np.sort(strip)[::-1],
                ".",
                color=shade,
                markersize=3.5,
                alpha=SHADES[sublayer % 2],
            )
            names.append(f"{layer}.{sublayer}" if len(sublayers) > 1 else str(layer))
    every = -(-len(names) // 8)
    axes.set_xticks(range(0, len(names), every), names[::every])
    axes.set_xlim(-0.6, len(names) - 0.4)
