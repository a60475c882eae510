"""train.py and eval.py as processes of their own, and runs small enough to train in tests."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from cartesian_moe_jax import config as schema
from cartesian_moe_jax.config import Config
from tests import tiny

ROOT = Path(__file__).parents[1]
BASE = "--config=configs/base.py"
XLA_CACHE = ROOT / ".pytest_cache" / "xla"

ONE_LAYER = {
    "model": {"num_layers": 1, "moe": {"backend": "reference"}},
    "training": {"compilation_cache": str(XLA_CACHE)},
}
"""What makes the tiny config's training step quick to compile, once for all tests."""


class Finished(NamedTuple):
    """How a process ended."""

    status: int
    out: str
    err: str


class FinishedRun(NamedTuple):
    """A run that train.py trained in one go: its command, and how the process ended."""

    config: Config
    workdir: Path
    result: dict[str, Any]
    command: list[str]
    ended: Finished


def values(tmp_path, **sections):
    """The values of a one-layer run on a corpus in ``tmp_path``."""
    return tiny.values(tmp_path, **tiny.merged(ONE_LAYER, sections))


def flags(values, name="--config"):
    """Nested values as command-line flags."""
    if not isinstance(values, dict):
        return [f"{name}={values}"]
    return [flag for key, value in values.items() for flag in flags(value, f"{name}.{key}")]


def train(values, workdir):
    """Run train.py to its end."""
    command = ["train.py", BASE, *flags(values)]
    ended = finish(start(*command, f"--workdir={workdir}"))
    assert ended.status == 0, ended.err
    result = json.loads((workdir / "result.json").read_text())
    return FinishedRun(schema.read(values), workdir, result, command, ended)


def start(script, *arguments, python=(sys.executable,)):
    """Start an entry point, on as many virtual devices as the tests have."""
    return subprocess.Popen(
        [*python, script, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    """Wait for a process; a hanging one is killed, and fails the test."""
    try:
        out, err = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return Finished(process.returncode, out, err)


def files_below(folder):
    """Every file below a folder with its content."""
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}
