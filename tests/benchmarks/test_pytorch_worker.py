"""PyTorch's process itself, where there is one: $BENCH_PYTHON, else .venv-bench."""

import os
import subprocess
from pathlib import Path

import pytest

from benchmarks.against_pytorch import OWN_FORMS, PyTorch
from benchmarks.parity import check
from benchmarks.step_parity import check as check_step
from tests import tiny

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("BENCH_PYTHON") or str(ROOT / ".venv-bench/bin/python")
pytestmark = pytest.mark.skipif(not Path(PYTHON).exists(), reason="$BENCH_PYTHON has no PyTorch")

CHAIN = """
import torch
from benchmarks.pytorch.memory import of_changes, temporary_bytes
assert of_changes([5, 3, -5, 1]) == 4 and of_changes([]) == 0
a = torch.ones(256, 256)
runs = lambda: a @ a, lambda: (a @ a) @ a, lambda: [a @ a, (a @ a) @ a], lambda: (a @ a).sum()
print(*map(temporary_bytes, runs))
"""


@pytest.fixture(scope="module")
def torch():
    process = PyTorch(PYTHON)
    yield process
    process.close()


def test_temporary_memory_is_what_is_neither_argument_nor_result():
    done = subprocess.run(
        [PYTHON, "-c", CHAIN], cwd=ROOT, capture_output=True, text=True, check=True
    )
    product = 4 * 256**2
    alone, chain, kept, summed = map(int, done.stdout.split())
    assert (alone, chain, kept) == (0, product, product)
    # All but the sum itself, which takes the place that was asked for.
    assert product - 256 <= summed <= product + 256


def test_a_layer_takes_what_its_backward_pass_keeps_and_the_same_each_time(torch):
    shape = {"d_model": 32, "d_expert": 64, "experts": 4, "top_k": 2}
    wanted = {"kind": "cartesian", "experts": "grouped", "rows": 512, "shape": shape}
    first, second = torch.make(**wanted), torch.make(**wanted)
    assert first.temporary_bytes == second.temporary_bytes
    hidden = 4 * 512 * 2 * 64  # one array of the routed experts' hidden width
    # Of each sub-layer the gate, its activation, up, and their product.
    assert 2 * 4 * hidden < first.temporary_bytes < 2 * 20 * hidden


def test_layers_computed_again_take_less(torch):
    shape = {"d_model": 32, "d_expert": 64, "experts": 4, "top_k": 2, "layers": 4, "heads": 2}
    optimizer = {"learning_rate": 1e-3, "warmup_steps": 1, "beta1": 0.9, "beta2": 0.95}
    optimizer |= {"eps": 1e-8, "weight_decay": 0.1, "clip_norm": 1.0}
    kept, again = (
        torch.make(
            kind="model",
            experts="loop",
            rows=8,
            seq_len=64,
            shape=shape | {"vocab_size": 50},
            optimizer=optimizer,
            remat=remat,
        )
        for remat in (False, True)
    )
    assert again.temporary_bytes < 0.6 * kept.temporary_bytes


def test_pytorch_computes_and_learns_what_ours_does(torch):
    layers = [check(torch, form) for form in OWN_FORMS]
    models = check_step(torch, OWN_FORMS, tiny.config(model={"moe": {"interval": 1}}))
    assert len(layers) == len(models) == len(OWN_FORMS)
