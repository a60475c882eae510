"""What measurements depend on: only under equal conditions does one run go on with another's.

No jax here: the driver leaves the GPU to the parts.
"""

import hashlib
import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

WITHOUT = "CARTESIAN_MOE_WITHOUT"
"""What kernels/by_leg.py reads; not imported, since that would import jax."""
ROOT = Path(__file__).parents[2]
PACKAGES = (
    *("jax", "jaxlib", "jax-cuda12-plugin", "jax-cuda13-plugin"),
    *("flax", "tokamax", "torch", "transformers"),
)
SOURCES = ("cartesian_moe_jax/kernels", "benchmarks/gpu")
COMMON = ("rehearsal", "packages", "sources", "device")
"""What is equal in all parts of one run; kernels that are left out may be known in its course."""


def conditions(*, rehearsal: bool) -> dict[str, Any]:
    """All but the device, which jax alone knows."""
    return {
        "rehearsal": rehearsal,
        "without": os.environ.get(WITHOUT, ""),
        "packages": versions(),
        "sources": digest(ROOT),
    }


def versions() -> dict[str, str]:
    """Of packages."""
    return {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def digest(root: Path) -> str:
    """Of what the kernels are, and how they are measured."""
    found = hashlib.sha256()
    for folder in SOURCES:
        for file in sorted((root / folder).rglob("*.py")):
            found.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    return found.hexdigest()[:16]


def changed(record: Mapping[str, Any], run: Mapping[str, Any]) -> list[str]:
    """The conditions of a record that are not those of a run; what it does not know, it accepts."""
    return [name for name in COMMON if name in run and record.get(name) != run[name]]
