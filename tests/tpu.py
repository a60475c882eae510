"""Programs compiled for TPUs that are not here: by libtpu, in a process of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = Path(os.environ.get("TPU_LIBRARY_PATH") or ROOT / ".targets" / "libtpu" / "libtpu.so")

needs_libtpu = pytest.mark.skipif(
    not LIBRARY.is_file(), reason=f"no {LIBRARY}: `make targets` puts libtpu there"
)

ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_LIBRARY_PATH": str(LIBRARY),
    # There is no TPU to ask about, and none that two processes could fight for.
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def run_with_libtpu(module, *arguments):
    """Run a module that compiles for TPU; return what it prints, a JSON object, in its last line.

    The tests' own flags for XLA are for CPUs.
    """
    inherited = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=inherited | ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])
