"""Losses while training."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from cartesian_moe_jax.study.pictures.legend import legend_below
from cartesian_moe_jax.study.pictures.style import color, dashes, drawing, label, svg_of

SETTLED = 0.2
"""The share of the tokens that the vertical axis is not made for. Losses fall steeply there, and
gaps are many times what is left in the end."""
COLUMNS = 2


class Curves(NamedTuple):
    """Values of some seeds at the same numbers of tokens."""

    tokens: Float[np.ndarray, "points"]
    values: Float[np.ndarray, "seeds points"]


def draw_losses(curves: Mapping[str, Curves]) -> bytes:
    """Draw the mean over seeds of each variant's training loss against tokens as SVG."""
    styles = dashes(list(curves))
    with drawing(3.6) as figure:
        axes = figure.subplots()
        for variant, curve in curves.items():
            axes.plot(
                curve.tokens / 1e6,
                curve.values.mean(0),
                styles[variant],
                color=color(variant),
                label=label(variant, 48),
            )
        axes.set(xlabel="tokens, millions", ylabel="training loss, nats per token")
        axes.set_ylim(*_limits([_settled(curve).mean(0) for curve in curves.values()]))
        legend_below(figure)
        return svg_of(figure)


def draw_gaps(gaps: Mapping[str, Curves], reference: str) -> bytes:
    """Draw each variant's loss minus the reference's as SVG: a panel each, one scale for all."""
    rows = -(-len(gaps) // COLUMNS)
    limits = _limits([np.zeros(1), *(_settled(gap).ravel() for gap in gaps.values())])
    with drawing(0.8 + 1.75 * rows) as figure:
        panels = figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False).ravel()
        for axes, (variant, gap) in zip(panels, gaps.items(), strict=False):
            shade = color(variant)
            axes.plot(gap.tokens / 1e6, gap.values.T, color=shade, linewidth=0.7, alpha=0.5)
            axes.plot(gap.tokens / 1e6, gap.values.mean(0), color=shade, linewidth=2)
            axes.axhline(0, color="black", linewidth=0.8)
            axes.set_title(label(variant, 23))
            axes.set_ylim(*limits)
        for axes in panels[len(gaps) :]:
            axes.set_visible(False)
        # A panel above a hidden one is the last of its column.
        for axes in panels[max(len(gaps) - COLUMNS, 0) : len(gaps)]:
            axes.tick_params(labelbottom=True)
        figure.supxlabel("tokens, millions", fontsize=10.5)
        figure.supylabel(f"loss minus {label(reference, 60)}, nats", fontsize=10.5)
        return svg_of(figure)


def _settled(curve: Curves) -> Float[np.ndarray, "seeds some"]:
    """Return the values behind the steep start, or all where nothing lies behind it."""
    late = curve.tokens >= SETTLED * curve.tokens[-1]
    return curve.values[:, late]


def _limits(shown: Sequence[Float[np.ndarray, "..."]]) -> tuple[float, float]:
    """Return the range of the finite values, with a margin."""
    values = np.concatenate(shown)
    values = values[np.isfinite(values)]
    low, high = (values.min(), values.max()) if values.size else (0.0, 1.0)
    margin = 0.05 * (high - low) or 0.05
    return float(low - margin), float(high + margin)
