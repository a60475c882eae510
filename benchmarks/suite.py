"""All benchmarks of this machine, one after the other: JSON, their tables in one page, a picture.

    python -m benchmarks suite --to=runs/bench [--python=.venv-bench/bin/python]

PyTorch's part runs where `--python` has it; the others need no more than the project does. Each
part is a process of its own. The page is DIR/README.md.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

QUICKSTART = "--config=configs/quickstart.py"
PARTS: Mapping[str, Sequence[str]] = {
    "layer": ("layer", "--rounds=7"),
    "ragged_dot": ("experts", "--ragged_dot", "--d_expert=512", "--rounds=3"),
    "step": ("step", "--breakdown", QUICKSTART),
    "scaling": ("scaling", "--picture={to}/scaling.svg"),
    "startup": ("startup", QUICKSTART),
    "data": ("data",),
}
"""What needs nothing else: a benchmark with its flags, under the name of its file."""
PYTORCH: Mapping[str, Sequence[str]] = {
    "pytorch_step": ("against_pytorch", "--what=step", "--python={python}"),
    "pytorch_layers": ("against_pytorch", "--rounds=5", "--python={python}"),
}


def machine() -> str:
    """Return what the numbers depend on, as a line."""
    cpu, memory, cores = platform.processor(), 0, 0
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            cores += name.strip() == "processor"
            cpu = value.strip() if name.strip() == "model name" else cpu
        memory = int(Path("/proc/meminfo").read_text().split()[1]) // 2**20
    except OSError:
        pass
    python = platform.python_version()
    return f"{cpu}, {cores} cores, {memory} GB; Python {python}, jax {version('jax')}"


def run_part(name: str, command: Sequence[str], folder: Path) -> str:
    """Run a benchmark, show what it prints, and return it with the command, for the page."""
    print(f"\n== {' '.join(command)}", flush=True)
    start = time.monotonic()
    whole = [sys.executable, "-m", "benchmarks", *command, f"--json={folder / name}.json"]
    done = subprocess.run(whole, stdout=subprocess.PIPE, text=True)
    print(done.stdout, end="", flush=True)
    said = done.stdout if not done.returncode else f"failed with exit status {done.returncode}\n"
    title = f"`python -m benchmarks {' '.join(command)}`, {time.monotonic() - start:.0f} s"
    picture = f"\n![{name}]({name}.svg)\n" if (folder / f"{name}.svg").exists() else ""
    return f"## {name}\n\n{title}\n\n```\n{said}```\n{picture}"


def ratios(folder: Path) -> Iterator[tuple[str, str, float]]:
    """Yield the bars of the picture, from the JSON files that are there: panel, label, ratio."""
    layer = _read(folder / "layer.json")
    for record in layer.get("experts", []):
        if "experts" in record["name"]:
            yield (
                "experts: time / dense twin (lower is better)",
                record["name"],
                record["ratio_to_dense_twin"],
            )
    groups: dict[str, list[float]] = {}
    for part in PYTORCH:
        for record in _read(folder / f"{part}.json").get("measurements", []):
            groups.setdefault(record["group"], []).append(record["median_ms"])
    for group, (ours, *theirs) in groups.items():
        yield "the fastest of PyTorch's: time / ours (higher is better)", group, min(theirs) / ours


def draw(bars: Sequence[tuple[str, str, float]], path: Path) -> None:
    """Draw a panel for each kind of ratio, with a line at 1."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "suite"
    panels = list(dict.fromkeys(panel for panel, _, _ in bars))
    heights = [sum(bar[0] == panel for bar in bars) for panel in panels]
    figure, axes = plt.subplots(
        len(panels),
        figsize=(9, 1.2 * len(panels) + 0.28 * sum(heights)),
        height_ratios=heights,
        layout="constrained",
        squeeze=False,
    )
    for axis, panel in zip(axes[:, 0], panels, strict=True):
        own = [(label, ratio) for kind, label, ratio in bars if kind == panel]
        drawn = axis.barh([label for label, _ in own], [ratio for _, ratio in own])
        axis.bar_label(drawn, fmt="%.2f", padding=3)
        axis.axvline(1, color="grey", linewidth=0.8)
        axis.set(title=panel, xlim=(0, 1.12 * max(ratio for _, ratio in own)))
        axis.invert_yaxis()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    """Run the parts, and write the page and the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", default="runs/bench", help="folder for what is measured")
    parser.add_argument("--python", help="that has PyTorch and transformers; without, not compared")
    parser.add_argument("--only", nargs="+", choices=[*PARTS, *PYTORCH], help="these parts alone")
    flags = parser.parse_args()
    folder = Path(flags.to)
    folder.mkdir(parents=True, exist_ok=True)
    parts = {**(PYTORCH if flags.python else {}), **PARTS}
    sections = [
        run_part(name, [word.format(to=folder, python=flags.python) for word in command], folder)
        for name, command in parts.items()
        if not flags.only or name in flags.only
    ]
    bars = list(ratios(folder))
    if bars:
        draw(bars, folder / "ratios.svg")
    picture = ["![ratios](ratios.svg)\n"] if bars else []
    head = [f"# Benchmarks\n\n{date.today()}, {machine()}\n"]
    (folder / "README.md").write_text("\n".join([*head, *picture, *sections]))
    print(f"\nwritten to {folder / 'README.md'}")


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.exists() else {}


if __name__ == "__main__":
    main()
