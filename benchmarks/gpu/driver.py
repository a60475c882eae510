"""Runs the parts one after the other, each within its time, and writes the page."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks.gpu import page
from benchmarks.gpu.parts import NO_GPU, PARTS, WRONG_INPUT, Part
from benchmarks.gpu.record import read
from cartesian_moe_jax.paths import write_atomically

WITHOUT = "CARTESIAN_MOE_WITHOUT"
"""What kernels/by_leg.py reads; not imported, since that would import jax."""
ROOT = Path(__file__).parents[2]
SECONDS = 470.0
LEAST = 10.0
"""Seconds under which no part is begun: it would only start."""
PACKAGES = ("jax", "jaxlib", "flax", "tokamax", "torch", "transformers")


def run_process(command: Sequence[str], log: Path, seconds: float, **environment: str) -> str:
    """Run a command for at most so long, with what it says in ``log``; return how it ended."""
    with log.open("a") as said:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return f"stopped after its {seconds:.0f} s; what it measured until then is kept"
        finally:
            _end(process)
    if not status:
        return "done"
    return f"failed with exit status {status}: {last_line(log)}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a process and of those that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        process.wait()


def last_line(log: Path) -> str:
    """The last line that says anything."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:200] if lines else "it said nothing"


def run_part(
    name: str,
    part: Part,
    folder: Path,
    seconds: float,
    flags: Sequence[str],
    environment: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Run a part as a process; say how it ended, and in the page's record."""
    print(f"{name}: {part.about} ...", flush=True)
    start = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.gpu.parts", name, str(folder), *flags]
    # What `legs` has measured is what the others choose by; the user's own timings are left alone.
    environment = {
        **environment,
        # One GPU, of several.
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0],
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.9",
        "XDG_CACHE_HOME": str(folder / "cache"),
        **({"JAX_PLATFORMS": "cpu"} if "--rehearse" in flags else {}),
        **part.environment,
    }
    log = folder / f"{name}.log"
    log.unlink(missing_ok=True)
    ended = run_process(command, log, seconds, **environment)
    took = time.monotonic() - start
    print(f"{name}: {ended} ({took:.0f} s)", flush=True)
    about = read(folder / "run.json")
    about["parts"] = {**about.get("parts", {}), name: {"ended": ended, "seconds": round(took, 1)}}
    write_atomically(folder / "run.json", json.dumps(about, indent=1))
    return ended


def run_parts(parts: Mapping[str, Part], folder: Path, flags: Sequence[str], until: float) -> None:
    """Run all; then, in what time is left, go on with those that were stopped and resume."""
    stopped, without = {}, {}
    for name, part in parts.items():
        left = until - time.monotonic()
        if left < LEAST:
            print(f"{name}: left out, since the time is over", flush=True)
            continue
        ended = run_part(name, part, folder, min(part.seconds, left), flags, without)
        if NO_GPU in ended:
            sys.exit(WRONG_INPUT)
        if part.tries and ended != "done":
            print(f"{name}: so the others go without {part.tries}", flush=True)
            without = {WITHOUT: ",".join([*without.values(), part.tries])}
        if part.resumes and ended.startswith("stopped"):
            stopped[name] = part
    for name, part in stopped.items():
        if (left := until - time.monotonic()) > LEAST:
            run_part(name, part, folder, left, flags, without)


def machine() -> dict[str, str]:
    """The GPU and its driver as nvidia-smi names them, and the versions of packages."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20)
        gpu = done.stdout.strip().splitlines()[0] if done.stdout.strip() else "nvidia-smi failed"
    except (OSError, subprocess.TimeoutExpired):
        gpu = "unknown: there is no nvidia-smi"
    return {"GPU, driver, memory": gpu, "Python": sys.version.split()[0]} | {
        name: _version(name) for name in PACKAGES
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--rehearse", action="store_true", help="on CPU, at tiny sizes")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all parts together")
    parser.add_argument("--python", default=sys.executable, help="that has PyTorch")
    return parser.parse_args()


def main() -> None:
    """Run the parts that are asked for, write the page, print the short table.

    The exit status is 1 if a part has failed or a kernel computes what is wrong.
    """
    until, flags = time.monotonic(), parse_arguments()
    until += flags.seconds
    folder = flags.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    about: dict[str, Any] = read(folder / "run.json")
    about |= {
        "date": str(date.today()),
        "command": f"python -m benchmarks gpu {' '.join(sys.argv[1:])}",
        "machine": machine(),
    }
    write_atomically(folder / "run.json", json.dumps(about, indent=1))
    passed = [f"--python={flags.python}", *(["--rehearse"] if flags.rehearse else [])]
    try:
        parts = {name: PARTS[name] for name in PARTS if name in flags.only}
        run_parts(parts, folder, passed, until)
    finally:
        write_atomically(folder / "README.md", page.page(folder))
        print(page.summary(folder), f"written to {folder / 'README.md'}", sep="\n", flush=True)
    sys.exit(int(page.anything_wrong(folder, flags.only)))
