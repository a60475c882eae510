"""What the kernels become on TPU, by the compiler for it: kernels, and nothing dense."""

import pytest

from tests.tpu import needs_libtpu, run_with_libtpu

CHIPS = [
    "v5p:2x2x1",
    pytest.param("v6e:2x2", marks=pytest.mark.long),
    pytest.param("v5e:2x2", marks=pytest.mark.long),
]
LANES = 128
ELEMENT = {"bfloat16": 2, "float32": 4}
EXPERTS = [(4096, 768, 1536, 16)]
MORE_EXPERTS = [
    *[(rows, *layer) for rows in (4096, 65536) for layer in ((768, 1536, 16), (768, 768, 32))],
    *[(rows, *layer) for rows in (4096, 65536) for layer in ((1024, 2048, 16), (1024, 1024, 32))],
    *[(rows, *layer) for rows in (8192, 65536) for layer in ((2048, 2048, 16), (2048, 1024, 32))],
    (8192, 2048, 2048, 2),  # one device's share of experts split over eight
    (4096, 1024, 256, 16),  # and of widths
    (1000, 768, 1536, 16),  # rows that fill no tile
]
"""Rows, d_model, d_expert and experts of configs/paper.py, cartesian and fine_grained."""

ATTENTION = [(4, 4096, 16, 128), (8, 1024, 12, 64)]
MORE_ATTENTION = [(2, 8192, 16, 128), (4, 1023, 16, 64), (1, 4097, 16, 128), (2, 2048, 4, 96)]
"""Batch, seq, heads and d_head."""


def programs(chip, what, dtype, shapes, remat="none"):
    names = ["x".join(map(str, shape)) for shape in shapes]
    found = run_with_libtpu("tests.kernels.tpu_programs", chip, what, remat, dtype, *names)
    return [(shape, found[name]) for shape, name in zip(shapes, names, strict=True)]


def assert_experts_are_kernels(chip, dtype, shapes):
    for (rows, d_model, d_expert, experts), program in programs(chip, "experts", dtype, shapes):
        # Two forward, two to the rows, three to the weights; jax 0.11 does not name them all.
        assert sum(program["kernels"].values()) == 7
        assert program["products"] == 0
        assert program["operations"] < 1.01 * 18 * rows * d_model * d_expert
        # Of the weights one copy in the dtype of the rows; nothing of experts times the rows.
        copied = 3 * experts * d_model * d_expert
        assert program["temporary_bytes"] < ELEMENT[dtype] * (copied + 3.1 * rows * d_expert)


def assert_attention_is_a_kernel(chip, dtype, shapes):
    for (batch, seq, heads, _), program in programs(chip, "attention", dtype, shapes):
        assert sorted(program["kernels"].values()) == [1, 1, 1]
        assert program["products"] == 0
        # Some arrays like the query, as the chip lays out heads: nothing of seq times seq.
        array = ELEMENT[dtype] * batch * heads * (seq + LANES) * LANES
        assert program["temporary_bytes"] < 10 * array


@needs_libtpu
@pytest.mark.parametrize("chip", CHIPS)
def test_experts(chip):
    assert_experts_are_kernels(chip, "bfloat16", EXPERTS)


@needs_libtpu
@pytest.mark.parametrize("chip", CHIPS)
def test_attention(chip):
    assert_attention_is_a_kernel(chip, "bfloat16", ATTENTION)


@needs_libtpu
@pytest.mark.parametrize(("remat", "forward_kernels"), [("full", 2), ("attention", 1)])
def test_remat_need_not_attend_twice(remat, forward_kernels):
    shape = (2, 512, 2, 64)
    ((_, program),) = programs(CHIPS[0], "attention", "bfloat16", [shape], remat)
    calls = [n for name, n in program["kernels"].items() if name.startswith("splash_mha_fwd")]
    assert sum(calls) == forward_kernels


@needs_libtpu
@pytest.mark.long
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("chip", ["v5p:2x2x1", "v6e:2x2", "v5e:2x2"])
def test_every_shape(chip, dtype):
    assert_experts_are_kernels(chip, dtype, MORE_EXPERTS)
    assert_attention_is_a_kernel(chip, dtype, MORE_ATTENTION)
