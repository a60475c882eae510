"""The tiles of the TPU kernels: whole where they fit, alike for the cores, within the memory."""

import types

import pytest

from cartesian_moe_jax.kernels import tpu_tiles
from cartesian_moe_jax.kernels.tpu_tiles import (
    HEIGHTS,
    ON_CHIP,
    STRIP,
    Product,
    Tile,
    WeightGradient,
    cores,
    filled,
    height_of,
    on_chip,
    product_tile,
    strip_width,
    weights_tile,
)

WIDTHS = [(20, 12), (768, 1536), (2048, 2048), (2816, 1024), (8192, 4096), (16384, 1024)]
CHIPS = {
    "v5e": ("TPU v5 lite", 1),
    "v5p": ("TPU v5", 2),
    "v6e": ("TPU v6 lite", 1),
    "v4": ("v4", 2),
}


@pytest.fixture
def compile_for(monkeypatch):
    """Tiles are those of a device of this kind."""

    def choose(kind, **facts):
        monkeypatch.setattr(tpu_tiles, "device_kind", lambda: kind)
        monkeypatch.setattr(tpu_tiles, "target_device", lambda: types.SimpleNamespace(**facts))

    return choose


@pytest.fixture(params=CHIPS)
def chip(request, compile_for):
    kind, number = CHIPS[request.param]
    compile_for(kind, num_cores=number)


def product(summed, outputs, operands=1, weights=2, rows=32768, experts=16, element=2):
    """As SwiGLU's first product."""
    sums = weights if operands == 1 else 1
    return Product(rows, experts, summed, outputs, operands, weights, sums, 0, sums + 1, element)


@pytest.mark.parametrize("element", [2, 4])
@pytest.mark.parametrize("operands", [1, 2])
@pytest.mark.parametrize(("summed", "outputs"), WIDTHS)
def test_tiles_cut_evenly_and_fit(summed, outputs, operands, element, chip):
    shape = product(summed, outputs, operands, element=element)
    tile = product_tile(shape)
    assert summed % tile.inputs == outputs % tile.outputs == 0
    moved = tile.rows * tile.inputs * operands + tile.inputs * tile.outputs * 2
    moved += tile.rows * tile.outputs * shape.results
    assert 2 * element * moved < on_chip() / 2
    gradient = WeightGradient(32768, 16, summed, outputs, element, 4)
    tile = weights_tile(gradient)
    assert summed % tile.inputs == outputs % tile.outputs == 0
    moved = element * tile.rows * (tile.inputs + tile.outputs) + 4 * tile.inputs * tile.outputs
    assert 2 * moved + 4 * tile.inputs * tile.outputs < on_chip() / 2


@pytest.mark.parametrize(("summed", "outputs"), [(768, 1536), (2048, 2048)])
def test_cores_share_what_is_cut(summed, outputs, chip):
    assert outputs // product_tile(product(summed, outputs)).outputs % cores() == 0
    tile = weights_tile(WeightGradient(32768, 16, summed, outputs, 2, 2))
    assert summed // tile.inputs % cores() == 0


def test_a_large_memory_takes_weights_whole(compile_for):
    compile_for("TPU v6 lite", num_cores=1)
    assert product_tile(product(2048, 2048)) == Tile(512, 2048, 2048)
    assert weights_tile(WeightGradient(32768, 16, 2048, 2048, 2, 2)) == Tile(512, 2048, 2048)


def test_unknown_chips_get_the_least(compile_for):
    compile_for("TPU v9")
    assert (on_chip(), cores()) == (16 * 2**20, 1)
    assert min(ON_CHIP.values()) > 16


@pytest.mark.parametrize(
    ("width", "strip"),
    [
        (20, 20),
        (256, 256),
        (384, 384),
        (512, 512),
        (768, 256),
        (2048, 512),
        (2816, 256),
        (640, 128),
    ],
)
def test_strips_fill_whole_matrix_units_where_they_can(width, strip):
    assert strip_width(width) == strip


@pytest.mark.parametrize(
    ("rows", "experts", "height"),
    [(4096, 16, 128), (16384, 16, 512), (8192, 16, 256), (65536, 16, 512), (7, 20, 128)],
)
def test_tiles_are_low_where_groups_are_small(rows, experts, height):
    assert height_of(rows, experts) == height
    assert all(height % STRIP == 0 for height in HEIGHTS)


def test_narrow_widths_stay_and_wide_ones_become_whole_lanes():
    assert [filled(width) for width in (20, 1000, 1024, 1025, 1152)] == [20, 1000, 1024, 1152, 1152]
    assert tpu_tiles.filled(5000) == 5120
