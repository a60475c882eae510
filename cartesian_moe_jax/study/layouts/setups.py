"""How the process that compiles for a target is set up: its Python and its environment."""

import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.parallel.targets import Target

ROOT = Path(__file__).parents[3]
TARGETS = ROOT / ".targets"
"""Where `make targets` and `make targets-gpu` put the compilers."""
DEVICES = "--xla_force_host_platform_device_count"


class Setup(NamedTuple):
    """What a process is started with."""

    python: str
    environment: dict[str, str]


def setup_of(target: Target, python: str = "") -> Setup:
    """Return the set-up for a target; ``python`` is in place of the usual one.

    Raises UserError if the target's compiler is not installed.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    setup = SETUPS[target.kind](target, python)
    return Setup(setup.python, os.environ | {"PYTHONPATH": path} | setup.environment)


def _cpu(target: Target, python: str) -> Setup:
    flags = re.sub(rf"{DEVICES}=\d+", "", os.environ.get("XLA_FLAGS", ""))
    flags = f"{flags} {DEVICES}={target.size}".strip()
    return Setup(python or sys.executable, {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags})


def _local(target: Target, python: str) -> Setup:
    return Setup(python or sys.executable, {})


def _tpu(target: Target, python: str) -> Setup:
    library = Path(os.environ.get("TPU_LIBRARY_PATH") or TARGETS / "libtpu" / "libtpu.so")
    if not library.is_file():
        raise UserError(
            f"--target={target.name} needs libtpu, and {library} is not there: run `make targets`, "
            "or name a libtpu.so in TPU_LIBRARY_PATH"
        )
    environment = {
        "JAX_PLATFORMS": "cpu",
        "TPU_LIBRARY_PATH": str(library),
        # No metadata server is asked, no start-up errors are printed.
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-16",
        "TPU_WORKER_HOSTNAMES": "localhost",
        # It locks the TPUs of the machine: here are none, and several processes may compile.
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    return Setup(python or sys.executable, environment)


def _gpu(target: Target, python: str) -> Setup:
    python = (
        python or os.environ.get("GPU_TARGET_PYTHON") or str(TARGETS / "gpu" / "bin" / "python")
    )
    if not Path(python).is_file():
        raise UserError(
            f"--target={target.name} needs a Python with jax[cuda13], and {python} is not there: "
            "run `make targets-gpu` (4 GB), or name one in --python or GPU_TARGET_PYTHON"
        )
    return Setup(python, {"JAX_PLATFORMS": "cpu"})


SETUPS: Mapping[str, Callable[[Target, str], Setup]] = MappingProxyType(
    {"cpu": _cpu, "local": _local, "tpu": _tpu, "gpu": _gpu}
)
"""By the kind of target."""
