"""Pictures hold all that is drawn, and show what is left of gaps in the end."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from cartesian_moe_jax.study.pictures import curves
from cartesian_moe_jax.study.pictures.curves import Curves, draw_gaps, draw_losses
from cartesian_moe_jax.study.pictures.legend import legend_below
from cartesian_moe_jax.study.pictures.style import drawing, label

SHORT = ["smoe_share", "cartesian", "dense_active", "top_p"]
LONG = [f"{name}+optimizer.expert_rate=2+model.moe.offset=1" for name in SHORT] * 4


@pytest.mark.parametrize("names, columns", [(SHORT, 2), (LONG, 1)], ids=["short", "long"])
def test_a_legend_is_never_cut_and_leaves_the_axes_their_height(names, columns):
    with drawing(3.6) as figure:
        axes = figure.subplots()
        for name in names:
            axes.plot([0, 1], [0, 1], label=label(name, 48))
        legend = legend_below(figure)
        figure.draw_without_rendering()
        shown, whole = legend.get_window_extent(), figure.bbox
        assert 0 <= shown.x0 < shown.x1 <= whole.width
        assert 0 <= shown.y0 < shown.y1 <= axes.get_window_extent().y0
        assert axes.get_window_extent().height / figure.dpi > 2.5
    assert (len({round(text.get_window_extent().x0) for text in legend.texts})) == columns


def drawn(monkeypatch, draw, *arguments):
    """The figure that a drawing function makes."""
    kept = []
    monkeypatch.setattr(curves, "svg_of", lambda figure: kept.append(figure) or b"")
    draw(*arguments)
    [figure] = kept
    assert isinstance(figure, Figure)
    return figure


@pytest.mark.parametrize("draw, more", [(draw_losses, []), (draw_gaps, ["smoe_share"])])
def test_the_steep_start_does_not_set_the_range(monkeypatch, draw, more):
    """A gap of 0.02 in the end is a large part of the panel, however large it was before."""
    tokens = np.linspace(1, 100, 100)
    values = np.where(tokens < 20, 3.0, 0.02)[None]
    figure = drawn(monkeypatch, draw, {"cartesian": Curves(tokens, values)}, *more)
    low, high = figure.axes[0].get_ylim()
    assert low < 0.02 < high and high - low < 0.11
