"""What experts and routers become on a GPU, by the compiler for it: kernels, nothing dense."""

import json
import subprocess
from pathlib import Path

import pytest

from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.parallel.targets import parse_target
from cartesian_moe_jax.study.layouts.setups import setup_of

pytestmark = pytest.mark.long

TARGET = "gpu:h200:1x1"
SHAPES = [
    (32768, 2048, 1024, 64),  # configs/paper.py:7b, a sub-expert
    (16384, 1024, 2048, 16),
    (16384, 768, 1536, 16),
    (16384, 1024, 512, 256),  # finest
    (1000, 768, 1536, 16),  # rows that fill no tile
    (64, 1024, 512, 64),  # decoding
    (4096, 1000, 200, 8),  # widths that no block divides
]


def compiled(module, target, *arguments):
    """What a module prints that compiles for a GPU; skips the test without the compiler."""
    try:
        setup = setup_of(parse_target(target))
    except UserError as error:
        pytest.skip(str(error))
    done = subprocess.run(
        [setup.python, "-m", module, target, *arguments],
        cwd=Path(__file__).parents[2],
        env=setup.environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def programs(backend, dtype, shapes):
    """By shape, what the compiled program is made of."""
    names = ["x".join(map(str, shape)) for shape in shapes]
    found = compiled("tests.kernels.gpu_programs", TARGET, backend, dtype, *names)
    return [found[name] for name in names]


@pytest.mark.parametrize(
    ("target", "backends"),
    [(TARGET, {"triton", "hopper", "hopper_in_turns"}), ("gpu:a100:1x1", {"triton"})],
)
def test_every_block_compiles(target, backends):
    blocks = compiled("tests.kernels.gpu_blocks", target)
    assert len(blocks) > 30
    assert {block.split()[0] for block, _ in blocks} == backends
    assert [(block, error) for block, error in blocks if error] == []


KERNELS = {"grouped_forward": 2, "grouped_to_rows": 2, "grouped_to_weights": 3}


@pytest.mark.parametrize("backend", ["auto", "triton"])
def test_experts_are_kernels(backend):
    for program in programs(backend, "bfloat16", SHAPES):
        assert (program["kernels"], program["products"]) == (KERNELS, 0)


def test_experts_in_float32_are_kernels():
    for program in programs("auto", "float32", SHAPES):
        assert (program["kernels"], program["products"]) == (KERNELS, 0)


def test_triton_uses_the_tensor_cores_and_lets_products_overlap():
    """Hopper's products run by themselves; a loop that waits for each leaves them idle between."""
    for shape, program in zip(SHAPES, programs("triton", "bfloat16", SHAPES), strict=True):
        assert set(program["tensor_core_instructions"]) == set(KERNELS)
        assert all(program["tensor_core_instructions"].values())
        if shape[0] >= 64 * shape[3]:
            assert program["overlapping"] == dict.fromkeys(KERNELS, True)


def test_memory_against_ragged_dot():
    """Required at 64 experts: five times less."""
    shapes = [shape for shape in SHAPES if shape[3] == 64]
    for ours, ragged in zip(
        programs("auto", "bfloat16", shapes), programs("ragged", "bfloat16", shapes), strict=True
    ):
        assert ragged["products"] == 9, "it is no kernel"
        assert 5 * ours["temporary_bytes"] < ragged["temporary_bytes"]


@pytest.mark.parametrize("target", [TARGET, "gpu:a100:1x1"])
def test_routers_multiply_pieces(target):
    """Had casts rounded the pieces, the compiler would drop these, and two of three were zero."""
    program = compiled("tests.kernels.gpu_pieces", target, "16384", "2048", "64")
    products = [["bf16", "bf16", "f32"]] * 3
    assert (program["products"], program["other_products"]) == (products, 0)
    assert program["roundings"] == {"2048,64": 3, "16384,64": 3}
    assert program["kernels"] <= 9
