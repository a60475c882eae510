"""The TPU kernels, interpreted: every path of them, and what they leave on the chip's memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.pallas.mosaic.interpret import interpret_pallas_call as interpreter
from jax.experimental.pallas import tpu as pltpu

from cartesian_moe_jax.kernels import mosaic_call, mosaic_products, mosaic_weights
from cartesian_moe_jax.kernels.activations import get_activation
from cartesian_moe_jax.kernels.composed import as_they_are
from cartesian_moe_jax.kernels.mosaic import MOSAIC
from cartesian_moe_jax.kernels.mosaic_call import Blocks, call
from cartesian_moe_jax.kernels.mosaic_products import call_products
from cartesian_moe_jax.kernels.mosaic_weights import call_to_weights
from cartesian_moe_jax.kernels.plain import PLAIN
from cartesian_moe_jax.kernels.row_visits import RowVisits
from cartesian_moe_jax.kernels.tpu_tiles import Tile

ROWS, SUMMED, OUTPUTS = 512, 256, 384
SIZES = {
    "unaligned": [130, 1, 77, 0, 250],
    "aligned": [256, 0, 128, 0, 128],
    "one hot expert": [0, 0, 512, 0, 0],
    "rows of no expert": [0, 100, 3, 0, 0],
    "single rows": [1, 1, 1, 1, 1],
    "nothing": [0, 0, 0, 0, 0],
}
TILES = {
    "whole": Tile(256, SUMMED, OUTPUTS),
    "two columns": Tile(128, SUMMED, OUTPUTS // 3),
    "two steps": Tile(256, SUMMED // 2, OUTPUTS),
    "both": Tile(128, SUMMED // 2, OUTPUTS // 3),
}


def is_long(tile, loads):
    return tile == "whole" or loads in ("single rows", "nothing")


PATHS = [
    pytest.param(
        (name, loads), marks=[pytest.mark.long] * is_long(name, loads), id=f"{name}-{loads}"
    )
    for name in TILES
    for loads in (SIZES if name in ("whole", "both") else ["unaligned"])
]
GATED = get_activation("swiglu")


@pytest.fixture(params=PATHS)
def sizes(request, monkeypatch):
    """Rows of each expert; legs are cut into tiles of some size, too."""
    tile, loads = request.param
    monkeypatch.setattr(mosaic_products, "product_tile", lambda shape: TILES[tile])
    monkeypatch.setattr(mosaic_weights, "weights_tile", lambda shape: TILES[tile])
    return SIZES[loads]


@pytest.fixture
def races(monkeypatch):
    """Kernels run as the chip does: copies by themselves, memory full of NaN; says of races."""
    settings = pltpu.InterpretParams(
        detect_races=True, uninitialized_memory="nan", num_cores_or_threads=2
    )
    monkeypatch.setattr(mosaic_call, "interpret", lambda: settings)
    return lambda: interpreter.races.races_found


def numbers(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def rows_of(sizes, width, seed=0):
    """Rows sorted by expert; those of no expert hold NaN."""
    live = (jnp.arange(ROWS) < sum(sizes))[:, None]
    return jnp.where(live, numbers(ROWS, width, seed=seed), jnp.nan)


def forward(matmul, sizes):
    weights = tuple(numbers(5, SUMMED, OUTPUTS, seed=seed) for seed in (1, 2))
    return (rows_of(sizes, SUMMED),), weights, (), GATED.keep_and_activate


def down(matmul, sizes):
    return (rows_of(sizes, SUMMED),), (numbers(5, SUMMED, OUTPUTS, seed=1),), (), as_they_are


def pull(matmul, sizes):
    beside = rows_of(sizes, OUTPUTS, seed=2), rows_of(sizes, OUTPUTS, seed=3)
    weights = (numbers(5, OUTPUTS, SUMMED, seed=1),)
    return (rows_of(sizes, SUMMED),), weights, beside, GATED.recompute_and_pull


def to_rows(matmul, sizes):
    weights = tuple(numbers(5, OUTPUTS, SUMMED, seed=seed) for seed in (1, 2))
    return (rows_of(sizes, SUMMED), rows_of(sizes, SUMMED, seed=3)), weights, (), as_they_are


def by(matmul, leg, sizes):
    """The leg's results, by another matmul's definition of it."""
    operands, weights, beside, finish = leg(matmul, sizes)
    if leg in (forward, down):
        return matmul.forward(operands[0], weights, jnp.array(sizes), finish)
    return matmul.to_rows(operands, weights, jnp.array(sizes), finish, *beside)


def by_call(leg, sizes):
    """The leg's results by the kernel itself, which hides nothing from the interpreter."""
    operands, weights, beside, finish = leg(None, sizes)
    transposed = leg in (pull, to_rows)
    results = 1 if finish is as_they_are else 3
    run = functools.partial(call_products, results=results, finish=finish, transposed=transposed)
    return jax.jit(run)(operands, weights, jnp.array(sizes), beside)


def assert_same(found, expected):
    largest = np.abs(np.asarray(expected)).max(initial=1e-6)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * largest)


@pytest.mark.parametrize("leg", [forward, down, pull, to_rows])
def test_products_in_every_tile(leg, sizes, races):
    for found, expected in zip(by_call(leg, sizes), by(PLAIN, leg, sizes), strict=True):
        assert_same(found[: sum(sizes)], expected[: sum(sizes)])
        if leg in (down, to_rows):
            assert not found[sum(sizes) :].any()
    assert not races()


def test_weight_gradients_in_every_tile(sizes, races):
    operands = rows_of(sizes, SUMMED), rows_of(sizes, OUTPUTS, seed=1), jnp.array(sizes)
    run = functools.partial(call_to_weights, dtype=jnp.dtype("float32"))
    expected = PLAIN.to_weights(*operands, "float32")
    assert_same(jax.jit(run)(*operands), expected)
    assert not races()


def test_a_race_would_be_seen(races):
    """Cores that share a first axis write to the same block."""

    def kernel(visits, operands, result):
        result[...] = operands[0][...]

    none = jnp.zeros(8, jnp.int32)
    blocks = Blocks((8, 128), lambda i, j, k, visits: (0, 0), [jnp.ones((8, 128))])
    everyone = RowVisits(none, none, none, none, none)
    jax.jit(lambda: call(kernel, "racing", (2, 1, 1), everyone, [blocks], blocks, [], 0))()
    assert races()


@pytest.mark.parametrize("height", [16, 64])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_visits_are_to_each_live_row_once(sizes, height):
    expected = np.repeat(np.arange(5), sizes)
    for visits, count in (
        RowVisits.by_tile(jnp.array(sizes), ROWS, height, every_tile=False),
        RowVisits.by_tile(jnp.array(sizes), ROWS, height, every_tile=True),
        RowVisits.by_expert(jnp.array(sizes), ROWS, height),
    ):
        found = np.full(ROWS, -1)
        for expert, tile, _, start, end in list(zip(*map(np.asarray, visits), strict=True))[:count]:
            own = np.arange(max(start, tile * height), min(end, (tile + 1) * height))
            assert (found[own] == -1).all()
            found[own] = expert
        np.testing.assert_array_equal(found[: sum(sizes)], expected)
        assert (found[sum(sizes) :] == -1).all()


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_visits_go_from_tile_to_tile_and_from_expert_to_expert(sizes):
    """What is begun is finished before another is begun: it is on chip once."""
    visits, count = RowVisits.by_tile(jnp.array(sizes), ROWS, 64, every_tile=True)
    assert np.asarray(visits.tile)[:count].tolist() == sorted(visits.tile.tolist()[:count])
    assert set(visits.tile.tolist()[:count]) == set(range(ROWS // 64))
    assert (np.diff(visits.read[:count]) >= 0).all()
    visits, count = RowVisits.by_expert(jnp.array(sizes), ROWS, 64)
    assert visits.expert.tolist()[:count] == sorted(visits.expert.tolist()[:count])
    assert set(visits.expert.tolist()[:count]) == set(range(5))


def test_widths_that_cannot_be_cut_are_filled():
    rows, sizes = numbers(40, 1100), jnp.array([17, 23])
    weights = (numbers(2, 1100, 1030, seed=1),)
    (found,) = jax.jit(lambda *a: MOSAIC.forward(*a, as_they_are))(rows, weights, sizes)
    (expected,) = PLAIN.forward(rows, weights, sizes, as_they_are)
    assert_same(found, expected)
