"""How the cost grows with experts, tokens and sub-layers, always against a dense twin.

    python -m benchmarks.scaling --json=scaling.json --picture=scaling.svg

Experts 8 to 256 at equal active size, and tokens 1,024 to 65,536, of one layer's routed experts;
then Cartesian Product Layers of 1 to 4 sub-layers, the total width of whose experts is constant.
Forward and backward. The twin does what a token uses, with one dense feed-forward per sub-layer.
"""

import argparse
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from benchmarks import experts as of_experts
from benchmarks import layer as of_layer
from benchmarks.timing import Timing, format_table, peak_line
from cartesian_moe_jax.process_memory import keep_freed_memory

HEADER = ("sweep", "", "ms", "twin ms", "ratio", "of peak", "temporary MB")
EXPERTS, TOKENS, SUBLAYERS = (8, 16, 32, 64, 128, 256), (1024, 4096, 16_384, 65_536), (1, 2, 3, 4)


class Point(NamedTuple):
    """One size of a sweep."""

    sweep: str
    size: int
    ours: Timing
    twin: Timing
    peak: Timing

    def ratio(self) -> float:
        """Return our time / the twin's."""
        return self.ours.median / self.twin.median

    def record(self) -> dict[str, Any]:
        """Return its numbers for JSON."""
        timings = {"ours": self.ours, "twin": self.twin, "peak": self.peak}
        records = {name: timing.record() for name, timing in timings.items()}
        return {"sweep": self.sweep, "size": self.size, "ratio": self.ratio(), **records}


def experts_sweep(flags: argparse.Namespace) -> list[Point]:
    """Time more and more experts of which each token uses as many."""
    setting = _setting(flags, flags.tokens)
    points = []
    for experts in flags.experts_sweep:
        peak, twin, ours = of_experts.measure(setting, flags.d_expert, [experts], backward=True)
        points.append(Point("experts", experts, ours, twin, peak))
    return points


def tokens_sweep(flags: argparse.Namespace) -> list[Point]:
    """Time more and more tokens."""
    points = []
    for tokens in flags.tokens_sweep:
        setting = _setting(flags, tokens)
        timings = of_experts.measure(setting, flags.d_expert, [flags.experts], backward=True)
        peak, twin, ours = timings
        points.append(Point("tokens", tokens, ours, twin, peak))
    return points


def sublayers_sweep(flags: argparse.Namespace) -> list[Point]:
    """Time layers of more and more, ever narrower sub-layers."""
    points = []
    for sublayers in flags.sublayers_sweep:
        wanted = argparse.Namespace(
            d_model=flags.d_model, top_k=flags.top_k, tokens=flags.tokens, rounds=flags.rounds
        )
        width = 2 * flags.d_expert // sublayers
        found = of_layer.measure(wanted, flags.experts, width, True, sublayers, with_parts=False)
        points.append(Point("sub-layers", sublayers, found.layer, found.twin, found.peak))
    return points


def table(points: Sequence[Point]) -> str:
    """Return a line for each point."""
    rows = [
        (
            point.sweep,
            f"{point.size:,}",
            f"{point.ours.median:.1f}",
            f"{point.twin.median:.1f}",
            f"{point.ratio():.2f}",
            point.ours.of_peak(point.peak),
            f"{point.ours.case.temporary_bytes / 1e6:.0f}",
        )
        for point in points
    ]
    return format_table(HEADER, rows)


def draw(points: Sequence[Point], path: str) -> None:
    """Draw the ratio of each sweep."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "scaling"
    sweeps = list(dict.fromkeys(point.sweep for point in points))
    highest = 1.1 * max(1.0, *(point.ratio() for point in points))
    figure, axes = plt.subplots(1, len(sweeps), figsize=(9, 3), sharey=True, layout="constrained")
    for axis, sweep in zip(axes, sweeps, strict=True):
        own = [point for point in points if point.sweep == sweep]
        sizes = [point.size for point in own]
        axis.plot(sizes, [point.ratio() for point in own], "o-")
        axis.axhline(1, color="grey", linewidth=0.8)
        axis.set_xscale("log", base=2)
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=45)
        axis.set(xlabel=sweep, ylim=(0, highest))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("time / dense twin")
    figure.savefig(path, metadata={"Date": None})


def parse_arguments() -> argparse.Namespace:
    """Return the flags; the defaults are the shapes that the project reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--d_model", type=int, default=512)
    parser.add_argument("--d_expert", type=int, default=512)
    parser.add_argument("--top_k", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=16_384, help="where they are not swept")
    parser.add_argument("--experts", type=int, default=64, help="where they are not swept")
    parser.add_argument("--experts_sweep", type=int, nargs="+", default=EXPERTS)
    parser.add_argument("--tokens_sweep", type=int, nargs="+", default=TOKENS)
    parser.add_argument("--sublayers_sweep", type=int, nargs="+", default=SUBLAYERS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="file to write the measurements to")
    parser.add_argument("--picture", help="SVG file to draw the ratios into")
    return parser.parse_args()


def main() -> None:
    """Measure, print, and write what is asked for."""
    flags = parse_arguments()
    keep_freed_memory()
    points = [*experts_sweep(flags), *tokens_sweep(flags), *sublayers_sweep(flags)]
    print(table(points), peak_line(points[0].peak), sep="\n")
    if flags.picture:
        draw(points, flags.picture)
    if flags.json:
        about = {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
        records = [point.record() for point in points]
        with open(flags.json, "w") as file:
            json.dump({**vars(flags), **about, "points": records}, file, indent=1)


def _setting(flags: argparse.Namespace, tokens: int) -> of_experts.Setting:
    return of_experts.Setting(tokens, flags.top_k, flags.d_model, "float32", "auto", flags.rounds)


if __name__ == "__main__":
    main()
