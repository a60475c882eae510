"""Runs the parts one after the other, each within its time, and writes the page."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.gpu import page
from benchmarks.gpu.conditions import WITHOUT, changed, conditions, versions
from benchmarks.gpu.parts import NO_GPU, PARTS, WRONG_INPUT, Part
from benchmarks.gpu.process import orderly_end, run_process
from benchmarks.gpu.record import read
from benchmarks.gpu.shares import LEAST, share
from cartesian_moe_jax.paths import write_atomically

SECONDS = 470.0
NOT_BEGUN = "not begun: the benchmark was ended before"
BEGUN = "not ended: the benchmark was, before it"
LEFT_OUT = "left out: the time was over"


def run_part(
    name: str, part: Part, folder: Path, seconds: float, flags: Sequence[str], without: str = ""
) -> str:
    """Run a part as a process; say how it ended, and in the page's record."""
    print(f"{name}: {part.about} ...", flush=True)
    note(folder, name, ended=BEGUN)
    start = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.gpu.parts", name, str(folder), *flags]
    # What `legs` has measured is what the others choose by; the user's own timings are left alone.
    environment = {
        WITHOUT: without,
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
    before = read(folder / "run.json")["parts"][name].get("seconds", 0.0)
    note(folder, name, ended=ended, seconds=round(before + took, 1))
    return ended


def note(folder: Path, name: str, **how: Any) -> None:
    """Keep how a part has ended, and with what device it was done."""
    run = read(folder / "run.json")
    parts = run.setdefault("parts", {})
    parts[name] = parts.get(name, {}) | how
    device = read(folder / f"{name}.json").get("device")
    if device and how["ended"] == "done":  # else the record may be of a run before
        run["device"] = device
    write_atomically(folder / "run.json", json.dumps(run, indent=1))


def run_parts(parts: Mapping[str, Part], folder: Path, flags: Sequence[str], until: float) -> None:
    """Run all; then, in what time is left, go on with those that were stopped and resume."""
    stopped, without = {}, left_out(folder)
    order = list(parts)
    for index, (name, part) in enumerate(parts.items()):
        later = [parts[other] for other in order[index + 1 :]]
        seconds = share(part, later, until - time.monotonic(), resumed=bool(stopped))
        if seconds < min(LEAST, part.seconds):
            print(f"{name}: {LEFT_OUT}", flush=True)
            note(folder, name, ended=LEFT_OUT)
            continue
        ended = run_part(name, part, folder, seconds, flags, without)
        if NO_GPU in ended:
            sys.exit(WRONG_INPUT)
        if part.tries:
            without = judge(folder, name, part.tries, ended, without)
        if part.resumes and ended.startswith("stopped"):
            stopped[name] = part
    for name, part in stopped.items():
        if (left := until - time.monotonic()) > LEAST:
            run_part(name, part, folder, left, flags, without)


def judge(folder: Path, name: str, tries: str, ended: str, without: str) -> str:
    """What the parts behind a trial go without, by how it ended; it is said and kept.

    Compilers may be slow: a trial that is stopped says something only if a kernel was running.
    """
    found = read(folder / f"{name}.json")
    running = found.get("running", "")
    fails = ended.startswith("failed") or running or found.get("failed")
    if ended == "done":
        return without
    then = "the others go without" if fails else "nothing was wrong until then: the others go with"
    words = f"{ended}{f', in {running}' if running else ''}; {then} {tries}"
    print(f"{name}: {words}", flush=True)
    without = ",".join(filter(None, [without, tries])) if fails else without
    note(folder, name, ended=words, without=without)
    return without


def left_out(folder: Path) -> str:
    """The kernels that are not wanted: by the user, or by a trial whose conditions still hold."""
    wanted = os.environ.get(WITHOUT, "")
    parts = read(folder / "run.json").get("parts", {})
    tried = [found["without"] for found in parts.values() if found.get("without")]
    return tried[-1] if tried else wanted


def machine() -> dict[str, str]:
    """The GPU and its driver as nvidia-smi names them, and the versions of packages."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20)
        gpu = done.stdout.strip().splitlines()[0] if done.stdout.strip() else "nvidia-smi failed"
    except (OSError, subprocess.TimeoutExpired):
        gpu = "unknown: there is no nvidia-smi"
    return {"GPU, driver, memory": gpu, "Python": sys.version.split()[0], **versions()}


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--rehearse", action="store_true", help="on CPU, at tiny sizes")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all parts together")
    parser.add_argument("--python", default=sys.executable, help="that has PyTorch")
    return parser.parse_args()


def begin(folder: Path, parts: Mapping[str, Part], *, rehearse: bool) -> None:
    """Forget what these parts have found, unless they resume, and all that is of other kernels."""
    folder.mkdir(parents=True, exist_ok=True)
    now = {"conditions": conditions(rehearsal=rehearse), "machine": machine()}
    run = read(folder / "run.json")
    same = run.get("machine") == now["machine"]
    same = same and not changed(run.get("conditions", {}), now["conditions"])
    run = {
        "date": str(date.today()),
        "command": f"python -m benchmarks gpu {' '.join(sys.argv[1:])}",
        **now,
        "parts": (run["parts"] if same else {}) | {name: {"ended": NOT_BEGUN} for name in parts},
    }
    write_atomically(folder / "run.json", json.dumps(run, indent=1))
    for name, part in parts.items():
        if not part.resumes:
            (folder / f"{name}.json").unlink(missing_ok=True)
    legs = read(folder / "legs.json")
    if changed(legs, now["conditions"]) or legs.get("without") != left_out(folder):
        # The others would choose by it; `legs` itself keeps what counts beside its record.
        shutil.rmtree(folder / "cache" / "cartesian_moe_jax" / "timings", ignore_errors=True)


def main() -> None:
    """Run the parts that are asked for, write the page, print the short table.

    The exit status is 1 if a part has failed or a kernel computes what is wrong.
    """
    until, flags = time.monotonic(), parse_arguments()
    until += flags.seconds
    folder = flags.folder.resolve()
    parts = {name: PARTS[name] for name in PARTS if name in flags.only}
    passed = [f"--python={flags.python}", *(["--rehearse"] if flags.rehearse else [])]
    with orderly_end():
        begin(folder, parts, rehearse=flags.rehearse)
        try:
            run_parts(parts, folder, passed, until)
        finally:
            write_atomically(folder / "README.md", page.page(folder))
            print(page.summary(folder), f"written to {folder / 'README.md'}", sep="\n", flush=True)
    sys.exit(int(page.anything_wrong(folder, flags.only)))
