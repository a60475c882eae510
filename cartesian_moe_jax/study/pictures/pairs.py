"""Which composed experts are used."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from cartesian_moe_jax.study.pictures.style import WIDTH, drawing, svg_of


class Map(NamedTuple):
    """How often a first and a second expert are used together, as a share of all pairs."""

    title: str
    shares: Float[np.ndarray, "first second"]


def draw_pairs(maps: Sequence[Map]) -> bytes:
    """Draw a heat map for each as SVG, on one scale: shares as multiples of the even one."""
    columns = 1 if len(maps) == 1 else 2 if len(maps) <= 4 else 3
    rows = -(-len(maps) // columns)
    size = (WIDTH - 1) / columns
    highest = max(float(m.shares.max()) * m.shares.size for m in maps)
    with drawing(0.6 + rows * size) as figure:
        figure.set_layout_engine("compressed")  # square panels leave no gaps
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, (title, shares) in zip(panels, maps, strict=False):
            image = axes.imshow(
                shares * shares.size, "cividis", vmin=0, vmax=highest, interpolation="nearest"
            )
            axes.set_title(title, fontsize=9.5)
            axes.grid(False)
            axes.tick_params(labelsize=8)
            axes.locator_params(integer=True, nbins=4)
        for axes in panels[len(maps) :]:
            axes.set_visible(False)
        figure.colorbar(image, ax=list(panels), shrink=0.8, label="share / even share")
        figure.supxlabel("second expert", fontsize=10.5)
        figure.supylabel("first expert", fontsize=10.5)
        return svg_of(figure)
