"""PyTorch's process itself, where there is one: $BENCH_PYTHON, else .venv-bench."""

import os
from pathlib import Path

import pytest

from benchmarks.against_pytorch import OWN_FORMS, PyTorch
from benchmarks.parity import check
from benchmarks.step_parity import check as check_step
from tests import tiny

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("BENCH_PYTHON") or str(ROOT / ".venv-bench/bin/python")
pytestmark = pytest.mark.skipif(not Path(PYTHON).exists(), reason="$BENCH_PYTHON has no PyTorch")


@pytest.fixture(scope="module")
def torch():
    process = PyTorch(PYTHON)
    yield process
    process.close()


def test_pytorch_computes_and_learns_what_ours_does(torch):
    layers = [check(torch, form) for form in OWN_FORMS]
    models = check_step(torch, OWN_FORMS, tiny.config(model={"moe": {"interval": 1}}))
    assert len(layers) == len(models) == len(OWN_FORMS)
