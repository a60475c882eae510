"""The comparison as a picture: memory against what the device has, and the parts of a step."""

from collections.abc import Mapping, Sequence
from typing import Any

from cartesian_moe_jax.study.layouts.row import Row
from cartesian_moe_jax.study.layouts.table import mesh_text
from cartesian_moe_jax.study.pictures.style import drawing, svg_of

MEMORY: Mapping[str, str] = {
    "parameters": "#0072b2",
    "optimizer": "#56b4e9",
    "temporary": "#e69f00",
    "other": "#a8a8a8",
}
TIMES: Mapping[str, str] = {
    "compute": "#009e73",
    "memory": "#f0e442",
    "links": "#d55e00",
    "network": "#cc79a7",
}
"""Okabe and Ito's colours, as in all pictures."""


FAR_AWAY = 4
"""A device's memory that is more than so many times what is used is told, not drawn."""


def draw_comparison(title: str, rows: Sequence[Row]) -> bytes:
    """Draw the rows that have a program as SVG, best on top."""
    done = [row for row in sorted(rows, key=Row.order) if not row.reason]
    timed = all(row.times for row in done)
    height = 1.3 + 0.42 * len(done)
    with drawing(height * (1 + timed)) as figure:
        panels = figure.subplots(1 + timed, 1, squeeze=False)[:, 0]
        _draw_memory(panels[0], done)
        if timed:
            _draw_times(panels[1], done)
        figure.suptitle(title, fontsize=10.5)
        return svg_of(figure)


def _draw_memory(axes: Any, rows: Sequence[Row]) -> None:
    start = [0.0] * len(rows)
    for part, color in MEMORY.items():
        widths = [_memory_parts(row)[part] / 1e9 for row in rows]
        axes.barh(range(len(rows)), widths, 0.6, left=start, color=color, label=part)
        start = [a + b for a, b in zip(start, widths, strict=True)]
    capacity = next((row.memory_bytes for row in rows if row.memory_bytes), 0) / 1e9
    within = capacity <= FAR_AWAY * max(start)
    if capacity and within:
        axes.axvline(capacity, color="black", linestyle="--", linewidth=1)
        axes.text(capacity, -0.75, "what it has ", ha="right", va="center", fontsize=9)
    has = "" if within else f" (it has {capacity:,.3g})"
    _label(axes, rows, f"GB of memory, one device{has}", len(MEMORY))


def _draw_times(axes: Any, rows: Sequence[Row]) -> None:
    thickness = 0.8 / len(TIMES)
    for index, (part, color) in enumerate(TIMES.items()):
        at = [y + (index - (len(TIMES) - 1) / 2) * thickness for y in range(len(rows))]
        widths = [getattr(row.times, part) * 1e3 for row in rows]
        axes.barh(at, widths, thickness, color=color, label=part)
    _label(axes, rows, "ms of a step, each part alone at its peak rate", len(TIMES))


def _label(axes: Any, rows: Sequence[Row], below: str, parts: int) -> None:
    axes.set_yticks(
        range(len(rows)), [f"{r.layout}\n{mesh_text(r.mesh)}" for r in rows], fontsize=8
    )
    axes.set_ylim(len(rows) - 0.5, -1.0)
    axes.set_xlabel(below)
    axes.grid(False, axis="y")
    axes.legend(ncols=parts, loc="lower right", bbox_to_anchor=(1, 1), handlelength=1, fontsize=8.5)


def _memory_parts(row: Row) -> dict[str, int]:
    """Return the bytes of each part; ``other`` is the program itself and its batch."""
    known = {
        "parameters": row.parameter_bytes,
        "optimizer": row.optimizer_bytes,
        "temporary": row.temporary_bytes,
    }
    return known | {"other": max(row.total_bytes - sum(known.values()), 0)}
