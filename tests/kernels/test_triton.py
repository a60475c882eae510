"""The pieces that the GPU kernels are cut into, and how a leg's backend and block are chosen."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from cartesian_moe_jax.kernels import blocks, by_leg, timings
from cartesian_moe_jax.kernels.blocks import (
    BLOCKS,
    HOPPER_MEMORY,
    Block,
    LegShape,
    candidates,
    default_block,
)
from cartesian_moe_jax.kernels.row_tiles import RowTiles
from cartesian_moe_jax.kernels.timings import Choice, Timing, as_json, fastest, parse
from tests.messages import message_of

SHAPES = [
    LegShape(leg, rows, experts, d_model, d_expert, products, dtype)
    for leg in BLOCKS
    for rows, experts in [(65536, 16), (4096, 64), (64, 64)]
    for d_model, d_expert in [(2048, 512), (768, 1536), (1000, 20)]
    for products in ([1] if leg == "to_weights" else [1, 2])
    for dtype in ["bfloat16", "float32"]
]


@pytest.mark.parametrize(
    "sizes", [[130, 1, 0, 64, 5], [0, 0, 0, 0, 0], [0, 0, 200, 0, 0], [64, 64, 64, 8, 0]], ids=str
)
@pytest.mark.parametrize("height", [16, 64])
def test_tiles_cover_each_live_row_once(sizes, height):
    tiles = RowTiles.of(jnp.array(sizes), 200, height)
    experts = np.full(200, -1)
    for expert, start, end in zip(*map(np.asarray, tiles), strict=True):
        own = slice(start, max(start, min(start + height, end)))
        assert (experts[own] == -1).all()
        experts[own] = expert
    expected = np.repeat(np.arange(5), sizes)
    np.testing.assert_array_equal(experts[: len(expected)], expected)
    assert (experts[len(expected) :] == -1).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_blocks_divide_and_fit_on_chip(shape):
    assert default_block(shape) in candidates(shape)
    for block in candidates(shape):
        assert -(-shape.inputs // 64) * 64 % block.inputs == 0
        assert -(-shape.outputs // 64) * 64 % block.outputs == 0
        assert block.shared_memory(shape) <= HOPPER_MEMORY
        assert block.accumulators(shape) <= 128


def test_blocks_fit_on_smaller_chips(monkeypatch):
    """An A100 has 163 KB for a block, where Hopper has 227."""
    shape = LegShape("forward", 65536, 16, 1024, 2048, 2, "bfloat16")
    smaller = types.SimpleNamespace(shared_memory_per_block_optin=163 * 1024)
    largest = max(block.shared_memory(shape) for block in candidates(shape))
    assert 163 * 1024 < largest <= HOPPER_MEMORY
    monkeypatch.setattr(blocks, "target_device", lambda: smaller)
    assert default_block(shape).shared_memory(shape) <= 163 * 1024
    assert all(block.shared_memory(shape) <= 163 * 1024 for block in candidates(shape))


@pytest.mark.parametrize(
    ("rows", "experts", "height"),
    [(65536, 16, 128), (4096, 64, 64), (1000, 16, 64), (64, 64, 16), (5440, 64, 64)],
)
def test_blocks_are_low_where_groups_are_small(rows, experts, height):
    shape = LegShape("forward", rows, experts, 1024, 512, 2, "bfloat16")
    assert default_block(shape).rows == height


SHAPE = LegShape("forward", 4096, 16, 1024, 512, 2, "bfloat16")
LOW, TALL = Block(64, 64, 128, 4, 4), Block(128, 64, 128, 8, 3)
TIMINGS = (
    Timing(SHAPE, Choice("triton", LOW), 2.0),
    Timing(SHAPE, Choice("triton", TALL), 1.5),
    Timing(SHAPE, Choice("tokamax_mosaic"), 1.0),
    Timing(SHAPE._replace(rows=65536), Choice("triton", LOW), 3.0),
    Timing(SHAPE._replace(leg="to_rows"), Choice("triton", LOW), 0.1),
)


@pytest.mark.parametrize(
    ("shape", "backends", "choice"),
    [
        (SHAPE, list(by_leg.LEG_BACKENDS), Choice("tokamax_mosaic")),
        (SHAPE, ["triton"], Choice("triton", TALL)),
        (SHAPE._replace(rows=6000), ["triton"], Choice("triton", TALL)),
        (SHAPE._replace(rows=50_000), ["triton"], Choice("triton", LOW)),
        # Half the rows an expert is near, a third is not, in however many experts.
        (SHAPE._replace(experts=32), ["triton"], Choice("triton", TALL)),
        (SHAPE._replace(experts=48), ["triton"], None),
        (SHAPE._replace(rows=8192, experts=96), ["triton"], None),
        # 64 wide, and 128 does not divide it: no block that was measured there fits.
        (SHAPE._replace(outputs=64), ["triton"], None),
        (SHAPE._replace(rows=10**7), ["triton"], None),
        (SHAPE._replace(products=1), ["triton"], None),
        (SHAPE._replace(dtype="float32"), ["triton"], None),
    ],
    ids=lambda value: str(value)[:60],
)
def test_the_fastest_at_the_nearest_shape(shape, backends, choice):
    assert fastest(TIMINGS, shape, backends, by_leg.fits) == choice


def test_timings_are_kept_as_they_are():
    assert parse(as_json(TIMINGS), "file") == TIMINGS


@pytest.mark.parametrize("text", ["{}x", "[1]", '[{"leg": "forward"}]', "[[]]"])
def test_another_file_is_refused(text):
    message = message_of(lambda: parse(text, "nvidia_h200.json"))
    assert message.startswith("timings='nvidia_h200.json' is no file of timings")


def test_ones_own_timings_come_first(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    timings.timings_of.cache_clear()
    monkeypatch.setattr(by_leg, "device_kind", lambda: "NVIDIA Test")
    assert by_leg.choose(SHAPE, ["triton"]) == Choice("triton", default_block(SHAPE))
    keep_own(TIMINGS)
    assert by_leg.choose(SHAPE, ["triton"]) == Choice("triton", TALL)
    timings.timings_of.cache_clear()


def keep_own(measured):
    own = timings.users_file("NVIDIA Test")
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_text(as_json(measured))
    timings.timings_of.cache_clear()


def test_ones_own_timings_replace_those_of_their_shapes_alone(tmp_path, monkeypatch):
    """Also where the shipped ones of that shape are faster: of a kernel that is no more, say."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(timings, "shipped", lambda _: TIMINGS)
    own = Timing(SHAPE, Choice("triton", LOW), 9.0)
    foreign = Timing(SHAPE._replace(inputs=64), Choice("triton", LOW), 1.0)
    keep_own((own, foreign))
    assert timings.timings_of("NVIDIA Test") == (own, foreign, *TIMINGS[3:])
    timings.timings_of.cache_clear()
