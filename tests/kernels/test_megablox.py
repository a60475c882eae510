"""The tiles that megablox gets, and that a platform gets the backend that is a kernel there."""

import pytest

from cartesian_moe_jax.kernels import BACKENDS, get_backend
from cartesian_moe_jax.kernels.grouped import BEST
from cartesian_moe_jax.kernels.megablox import (
    MATMUL_LIMITS,
    WEIGHT_GRADIENT_LIMITS,
    tile_height,
    tile_width,
    tiling,
)
from cartesian_moe_jax.platform import compiling_for

ON_CHIP = 16 * 2**20
WIDTHS = [20, 128, 384, 768, 1024, 1056, 1536, 2048, 2816, 5000]


@pytest.mark.parametrize(
    ("rows", "experts", "height"),
    [(4096, 16, 128), (16384, 16, 512), (8192, 16, 256), (65536, 16, 512), (7, 20, 128)],
)
def test_tiles_are_low_where_groups_are_small(rows, experts, height):
    assert tile_height(rows, experts) == height


@pytest.mark.parametrize("size", WIDTHS)
@pytest.mark.parametrize("limit", [512, 1024])
def test_tiles_are_whole_dimensions_or_whole_lanes(size, limit):
    width = tile_width(size, limit)
    assert width <= limit and (width == size or width % 128 == 0)
    assert size % width == 0 or size % 128, "only what is no multiple of the lanes is filled up"


@pytest.mark.parametrize("element", [2, 4])
def test_the_largest_tiles_fit_on_chip(element):
    """Two buffers for each operand and result, one float32 accumulator."""
    height = 512
    for summed, outputs in MATMUL_LIMITS[element]:
        moved = element * (height * (summed + outputs) + summed * outputs)
        assert 2 * moved + 4 * height * outputs <= ON_CHIP
    for inputs, outputs in WEIGHT_GRADIENT_LIMITS[element]:
        moved = element * height * (inputs + outputs) + 4 * inputs * outputs
        masked = 4 * height * (inputs + outputs)
        assert 2 * moved + 4 * inputs * outputs + masked <= ON_CHIP


@pytest.mark.parametrize(
    ("inputs", "outputs", "tile"),
    [
        (768, 1536, (128, 768, 768)),
        (1536, 768, (128, 1536, 768)),
        (1024, 2048, (128, 1024, 1024)),
        (2048, 1024, (128, 2048, 512)),
        (4096, 1024, (128, 1024, 1024)),
    ],
)
def test_a_tile_takes_the_whole_sum_where_it_can(inputs, outputs, tile):
    assert tiling(4096, 16, inputs, outputs, MATMUL_LIMITS[2]) == tile


@pytest.mark.parametrize("platform", BEST)
def test_auto_is_the_best_on_the_target(platform):
    with compiling_for(platform):
        assert get_backend("auto") is BACKENDS[BEST[platform]]
