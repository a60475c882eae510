"""The comparison as text for a terminal."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from cartesian_moe_jax.columns import columns
from cartesian_moe_jax.study.layouts.row import Row

LEFT = 3
"""Columns of words, aligned to the left."""
UNKNOWN = "-"


class Units(NamedTuple):
    """In which a table's bytes and FLOPs are given."""

    byte_name: str
    bytes: int | float
    flop_name: str
    flops: int | float

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "Units":
        """Return those in which the largest numbers have few digits."""
        large = max((row.total_bytes or 0 for row in rows), default=0) >= 1e9
        many = max((row.flops or 0 for row in rows), default=0) >= 1e12
        return cls(*(("GB", 1e9) if large else ("MB", 1e6)), *(("T", 1e12) if many else ("G", 1e9)))

    def size(self, value: int | float | None) -> str:
        """Write bytes."""
        return UNKNOWN if value is None else number(value / self.bytes)

    def header(self) -> tuple[str, ...]:
        """Name the columns of the comparison."""
        of, sent, far = (f"{name} {self.byte_name}" for name in ("of", "sent", "far"))
        parts = (f"params {self.byte_name}", "optim", "temp", "total", of)
        rates = (f"{self.flop_name}FLOP", "moved", "moved ms", sent, far, "step ms", "bound by")
        ends = ("exch/least", "compile s", "measured ms")
        return ("layout", "exchange", "mesh", *parts, *rates, *ends)


def comparison(rows: Sequence[Row]) -> str:
    """Return a line for each row, best first, then the reasons of those without a program."""
    ordered = sorted(rows, key=Row.order)
    done = [row for row in ordered if not row.reason]
    units = Units.of(done)
    cells = [units.header(), *(_cells(row, units) for row in done)]
    lines = [aligned(_without_empty(cells))] if done else []
    failed = [(row.layout, mesh_text(row.mesh), row.reason) for row in ordered if row.reason]
    if failed:
        lines += ["", "no program:", aligned(failed)]
    return "\n".join(lines)


def collectives_table(rows: Sequence[Row]) -> str:
    """Return what each row's program sends in a step, by kind of collective and mesh axes."""
    units = Units.of(rows)
    name = units.byte_name
    header = ("layout", "collective", "over", "count", f"near {name}", f"far {name}", "near links")
    cells = [
        (
            f"{row.layout} {mesh_text(row.mesh)}",
            one.kind,
            "+".join(one.axes),
            f"{'about ' * one.assumed}{one.count:,}",
            units.size(one.near_bytes),
            units.size(one.far_bytes or None),
            UNKNOWN if one.near_share == 1 else f"{one.near_share:.0%}",
        )
        for row in sorted(rows, key=Row.order)
        for one in row.collectives
    ]
    return aligned(_without_empty([header, *_without_repeats(cells)]))


def verdict(rows: Sequence[Row]) -> str:
    """Return the best row that fits, as flags for train.py, or why none does."""
    done = [row for row in sorted(rows, key=Row.order) if not row.reason]
    fitting = [row for row in done if (row.excess_bytes() or 0) <= 0]
    if fitting:
        return f"best that fits: {flags(fitting[0])}"
    if done:
        least = min(done, key=lambda row: row.excess_bytes())
        return f"none fits: {least.layout} lacks least, {number(least.excess_bytes() / 1e9)} GB"
    return "none compiles"


def flags(row: Row) -> str:
    """Return the flags that choose a row's layout and mesh."""
    sizes = {axis: size for axis, size in row.mesh.items() if size > 1} or {"data": 1}
    moved = {"exchange": row.exchange} if "expert" in sizes else {}
    fields = {"layout": row.layout} | sizes | moved
    return " ".join(f"--config.parallel.{name}={value}" for name, value in fields.items())


def mesh_text(mesh: Mapping[str, int]) -> str:
    """Return the axes with more than one device, as in ``data 8, expert 4``."""
    return ", ".join(f"{axis} {size}" for axis, size in mesh.items() if size > 1) or "1 device"


def number(value: int | float | None) -> str:
    """Return three digits, more only before the point."""
    if value is None:
        return UNKNOWN
    if 0 < abs(value) < 0.0005:
        return "<0.001"
    digits = 0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return f"{value:,.{digits}f}" if abs(value) >= 0.9995 or not value else f"{value:.3g}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return the rows with words to the left and numbers to the right; no spaces at their ends."""
    return "\n".join(line.rstrip() for line in columns(rows, left=LEFT).splitlines())


def _cells(row: Row, units: Units) -> tuple[str, ...]:
    sizes = (row.parameter_bytes, row.optimizer_bytes, row.temporary_bytes, row.total_bytes)
    return (
        row.layout,
        row.exchange,
        mesh_text(row.mesh),
        *map(units.size, sizes),
        _memory(row, units),
        number(row.flops / units.flops),
        units.size(row.moved_bytes),
        number(row.moved_seconds and row.moved_seconds * 1e3),
        units.size(row.sent_bytes()),
        units.size(sum(one.far_bytes for one in row.collectives) or None),
        number(row.times and row.times.step() * 1e3),
        row.times.bound() if row.times else UNKNOWN,
        _exchange(row),
        number(row.compile_seconds),
        number(row.step_seconds and row.step_seconds * 1e3),
    )


def _memory(row: Row, units: Units) -> str:
    """Return what the device has, and whether that is enough."""
    excess = row.excess_bytes()
    if excess is None:
        return UNKNOWN
    verdict = "fits" if excess <= 0 else f"lacks {units.size(excess)}"
    return f"{units.size(row.memory_bytes)} {verdict}"


def _exchange(row: Row) -> str:
    """Return what is sent to experts and back, as a multiple of the least."""
    return (
        f"{row.exchange_bytes / row.least_exchange_bytes:.2f}x"
        if row.least_exchange_bytes
        else UNKNOWN
    )


def _without_empty(rows: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Leave out columns of which nothing is known."""
    kept = [i for i, column in enumerate(zip(*rows[1:], strict=True)) if {*column} != {UNKNOWN}]
    return [tuple(row[i] for i in kept) for row in rows]


def _without_repeats(rows: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Name a layout in the first of its rows alone."""
    kept: list[tuple[str, ...]] = []
    before = ""
    for first, *others in rows:
        kept.append(("" if first == before else first, *others))
        before = first
    return kept
