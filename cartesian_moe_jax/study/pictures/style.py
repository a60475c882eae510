"""What all pictures share: size, letters, colours by method, and SVG that is always the same."""

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cartesian_moe_jax.study.comparison import method_of

COLORS: Mapping[str, str] = {
    "dense": "#000000",
    "smoe_share": "#d55e00",
    "smoe_top3": "#e69f00",
    "hash": "#cc79a7",
    "fine_grained": "#009e73",
    "top_p": "#882255",
    "cartesian": "#0072b2",
    "cartesian_noshared": "#56b4e9",
    "dense_active": "#6b6b6b",
    "dense_stacked": "#a8a8a8",
}
"""Okabe and Ito's colours, which colour-blind readers can tell apart, and greys."""
UNKNOWN = "#8c564b"
DASHES = ("-", "--", ":", "-.")
WIDTH = 5.0
"""Inches. Letters stay legible where the picture is shrunk to a phone."""

RC = {
    "svg.fonttype": "path",
    "svg.hashsalt": "cartesian_moe_jax",
    "font.size": 10.5,
    "axes.titlesize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 1.6,
}


def color(variant: str) -> str:
    """Return the colour of a variant: that of its method."""
    return COLORS.get(method_of(variant), UNKNOWN)


def dashes(variants: Sequence[str]) -> dict[str, str]:
    """Return a line style each: the variants of one method share a colour, so these differ."""
    styles: dict[str, str] = {}
    for variant in variants:
        before = sum(method_of(other) == method_of(variant) for other in styles)
        styles[variant] = DASHES[before % len(DASHES)]
    return styles


def label(variant: str, width: int = 22) -> str:
    """Return a variant's name, with line breaks before its fields; the field's last name only."""
    method, *fields = variant.split("+")
    short = [f"+{field.rpartition('.')[2]}" if "=" in field else f"+{field}" for field in fields]
    lines = [method]
    for field in short:
        joined = lines[-1] + field
        lines[-1:] = [joined] if len(joined) <= width else [lines[-1], field]
    return "\n".join(lines)


@contextlib.contextmanager
def drawing(height: float) -> Iterator[Any]:
    """Give a matplotlib figure of ``height`` inches, in the common style."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(RC):
        yield Figure(figsize=(WIDTH, height), layout="constrained")


def svg_of(figure: Any) -> bytes:
    """Return the figure as SVG, the same bytes each time."""
    drawn = io.BytesIO()
    # Images inside are sharp at this many dots per inch; no date, so that nothing else changes.
    figure.savefig(drawn, format="svg", dpi=200, facecolor="white", metadata={"Date": None})
    return drawn.getvalue()
