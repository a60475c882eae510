"""How long a user waits: the import, the first step of a run, and the compiler as depth doubles.

    python -m benchmarks.startup --config=configs/quickstart.py

The first step is finished when its loss stands in metrics.jsonl, counted from the start of the
process: cold (nothing compiled, neither kernels nor program, and no prepared data), with data and
kernels, and warm (all are there).
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.timing import format_table

POLL = 0.02
LONGEST = 600.0
IMPORT = "import cartesian_moe_jax as cmoe; cmoe.load"
"""With the first name that is used: the package imports what a name needs with it."""


def seconds_of(command: Sequence[str]) -> float:
    """Return how long a process takes."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def first_step(arguments: Sequence[str], workdir: Path, cache: Path) -> float:
    """Start a run, and return the seconds until its first step is finished; it is then stopped."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, "train.py", *arguments, f"--workdir={workdir}"]
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=environment)
        metrics = workdir / "metrics.jsonl"
        try:
            while not (metrics.exists() and metrics.stat().st_size):
                if process.poll() is not None or time.perf_counter() - start > LONGEST:
                    said.seek(0)
                    raise SystemExit(f"no first step:\n{said.read()}")
                time.sleep(POLL)
            return time.perf_counter() - start
        finally:
            process.kill()
            process.wait()


def first_steps(arguments: Sequence[str], warm_runs: int) -> dict[str, list[float]]:
    """Return the seconds to the first step: cold, with prepared data, and warm."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def run(label: str, programs: str) -> float:
            caches = (
                f"--config.data.cache_dir={folder / 'data'}",
                f"--config.training.compilation_cache={folder / programs}",
            )
            return first_step([*arguments, *caches], folder / f"run_{label}", folder / "user")

        found = {
            "cold": [run("cold", "xla")],
            "data prepared": [run("data", "xla_of_data")],
        }
        # The cold run was stopped at its first step: nothing of it was still to compile.
        found["warm"] = [run(f"warm{i}", "xla") for i in range(warm_runs)]
    return found


def compile_seconds(arguments: Sequence[str]) -> tuple[float, float]:
    """Return how long the step takes to compile, at the config's depth and at twice that."""
    from benchmarks.step import step_case
    from cartesian_moe_jax.models.vocabulary import with_vocabulary
    from configs.flags import config_of

    config = with_vocabulary(config_of(arguments), 257)
    deep = dataclasses.replace(config.model, num_layers=2 * config.model.num_layers)
    cases = [step_case("", c)[0] for c in (config, dataclasses.replace(config, model=deep))]
    return cases[0].compile_seconds, cases[1].compile_seconds


def main() -> None:
    """Measure, print, and write the JSON file if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--warm_runs", type=int, default=3)
    parser.add_argument("--json", help="file to write the measurements to")
    flags, rest = parser.parse_known_args()
    rest = rest or ["--config=configs/quickstart.py"]
    found = {"import": [seconds_of([sys.executable, "-c", IMPORT]) for _ in range(3)]}
    found |= {
        f"first step, {name}": times for name, times in first_steps(rest, flags.warm_runs).items()
    }
    once, twice = compile_seconds(rest)
    found |= {"compiling the step": [once], "compiling it at twice the depth": [twice]}
    rows = [(name, "  ".join(f"{s:.1f}" for s in seconds)) for name, seconds in found.items()]
    print(format_table(("", "seconds"), rows))
    if flags.json:
        with open(flags.json, "w") as file:
            json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()
