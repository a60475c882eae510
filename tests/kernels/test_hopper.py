"""The Hopper kernels on a simulated GPU: its memories, barriers and groups of warps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.pallas.mosaic_gpu.interpret import gpu_callbacks as simulator
from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams
from jax.experimental.pallas import mosaic_gpu as plgpu

from cartesian_moe_jax.kernels import by_leg, hopper, hopper_call, hopper_stores, timings
from cartesian_moe_jax.kernels.activations import get_activation
from cartesian_moe_jax.kernels.aligned_tiles import ALIGNMENT, AlignedTiles
from cartesian_moe_jax.kernels.blocks import HOPPER_MEMORY, Block, LegShape
from cartesian_moe_jax.kernels.composed import as_they_are
from cartesian_moe_jax.kernels.hopper import hopper_candidates, hopper_fits
from cartesian_moe_jax.kernels.hopper_products import call_products
from cartesian_moe_jax.kernels.hopper_teams import IN_TURNS, TOGETHER
from cartesian_moe_jax.kernels.hopper_weights import call_to_weights
from cartesian_moe_jax.kernels.in_kernels import in_hopper_forms
from cartesian_moe_jax.kernels.plain import PLAIN
from cartesian_moe_jax.kernels.timings import Choice, Timing
from cartesian_moe_jax.kernels.tuning import described

ROWS, SUMMED, OUTPUTS = 300, 128, 256
SIZES = {
    "unaligned": [33, 1, 170, 0, 26],
    "one hot expert": [0, 0, 300, 0, 0],
    "rows of no expert": [0, 100, 3, 0, 0],
    "single rows": [1, 1, 1, 1, 1],
    "nothing": [0, 0, 0, 0, 0],
}
BLOCKS = [Block(128, 64, 128, 8, 2), Block(128, 64, 256, 8, 3)]
SMALL = Block(128, 64, 64, 8, 3)
"""Tiles of which an odd number of pieces is stored, where two places take turns."""
COPIES = 64
"""At one time, each of a thread of its own."""
TEAMS = {"together": TOGETHER, "in turns": IN_TURNS}
GATED, RELU = get_activation("swiglu"), get_activation("relu")
TOLERANCE = 1e-2

needs_the_new_simulator = pytest.mark.skipif(
    jax.__version_info__ < (0, 11),
    reason="the GPU that jax 0.10 simulates cannot transpose, and stops at memory that is shared",
)


@pytest.fixture(autouse=True)
def simulated(monkeypatch):
    """A GPU of two multiprocessors, which reads what it likes behind the end of an array.

    It takes any two accesses to memory that arrays share for accesses to the same bytes, so here
    arrays share none.
    """
    simulate(monkeypatch, detect_races=True)
    monkeypatch.setattr(hopper_stores, "in_one_place", lambda *arrays: arrays)


def simulate(monkeypatch, **settings):
    gpu = InterpretGPUParams(
        out_of_bounds_reads="uninitialized",
        # Those of one thread are taken to be over in order, which would hide races.
        num_tma_threads_per_device=COPIES,
        **settings,
    )
    monkeypatch.setattr(hopper_call, "interpret", lambda: gpu)
    monkeypatch.setattr(hopper_call, "multiprocessors", lambda: 2)


@pytest.fixture(params=TEAMS.values(), ids=TEAMS.keys())
def teams(request):
    return request.param


def numbers(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape, jnp.bfloat16)


def weights_of(*shape, seed):
    return numbers(5, *shape, seed=seed) * SUMMED**-0.5


def rows_of(sizes, width, seed=0):
    """Rows sorted by expert; those of no expert hold NaN."""
    live = (jnp.arange(ROWS) < sum(sizes))[:, None]
    return jnp.where(live, numbers(ROWS, width, seed=seed), jnp.nan)


def assert_same(found, expected):
    found, expected = np.float32(found), np.float32(expected)
    largest = np.abs(expected).max(initial=1e-6)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * largest)


def assert_no_race():
    races = simulator.get_races()
    assert races is None or not races.races_found


def assert_as_plain(sizes, operands, weights, beside, finish, transposed, block, teams=TOGETHER):
    """The kernel against the plain loop, in the rows that have an expert."""
    group_sizes = jnp.array(sizes)
    if transposed:
        expected = PLAIN.to_rows(operands, weights, group_sizes, finish, *beside)
    else:
        expected = PLAIN.forward(operands[0], weights, group_sizes, finish)
    like = tuple(jax.ShapeDtypeStruct(each.shape, each.dtype) for each in expected)
    arrays = operands, weights, group_sizes, beside
    found = call_products(*arrays, like, finish, transposed, block, teams)
    for one, other in zip(found, expected, strict=True):
        assert_same(one[: sum(sizes)], other[: sum(sizes)])
    assert_no_race()


AT_LENGTH = ("rows of no expert", "single rows", "nothing")
every_sizes = pytest.mark.parametrize(
    "sizes",
    [
        pytest.param(sizes, marks=[pytest.mark.long] * (name in AT_LENGTH), id=name)
        for name, sizes in SIZES.items()
    ],
)


@every_sizes
def test_forward(sizes, teams):
    rows, weights = (rows_of(sizes, SUMMED),), (weights_of(SUMMED, OUTPUTS, seed=1),)
    assert_as_plain(sizes, rows, weights, (), as_they_are, False, BLOCKS[0], teams)


def test_forward_in_wide_blocks():
    sizes = SIZES["unaligned"]
    rows, weights = (rows_of(sizes, SUMMED),), (weights_of(SUMMED, OUTPUTS, seed=1),)
    assert_as_plain(sizes, rows, weights, (), as_they_are, False, BLOCKS[1])


@pytest.mark.parametrize("sizes", [[256, 44, 0, 0, 0], SIZES["unaligned"]], ids=str)
def test_the_last_store_of_a_tile_is_over_before_the_next_tile_stores(sizes, teams):
    rows, weights = (rows_of(sizes, SUMMED),), (weights_of(SUMMED, OUTPUTS, seed=1),)
    assert_as_plain(sizes, rows, weights, (), as_they_are, False, SMALL, teams)


@pytest.mark.parametrize(("teams", "block"), [(TOGETHER, BLOCKS[0]), (IN_TURNS, SMALL)], ids=str)
@every_sizes
def test_forward_with_an_activation(sizes, teams, block):
    weights = tuple(weights_of(SUMMED, OUTPUTS, seed=seed) for seed in (1, 2))
    rows = (rows_of(sizes, SUMMED),)
    assert_as_plain(sizes, rows, weights, (), GATED.keep_and_activate, False, block, teams)


def test_forward_with_an_activation_that_is_not_gated():
    rows, weights = rows_of([100] * 3, SUMMED), weights_of(SUMMED, OUTPUTS, seed=1)[:3]
    assert_as_plain([100] * 3, (rows,), (weights,), (), RELU.keep_and_activate, False, BLOCKS[0])


@needs_the_new_simulator
def test_results_leave_from_memory_that_they_share(monkeypatch, teams):
    simulate(monkeypatch)
    monkeypatch.setattr(hopper_stores, "in_one_place", plgpu.RefUnion)
    weights = tuple(weights_of(SUMMED, OUTPUTS, seed=seed) for seed in (1, 2))
    sizes = SIZES["unaligned"]
    rows = (rows_of(sizes, SUMMED),)
    assert_as_plain(sizes, rows, weights, (), GATED.keep_and_activate, False, BLOCKS[0], teams)


@needs_the_new_simulator
@pytest.mark.parametrize(
    ("teams", "block"), [(TOGETHER, BLOCKS[1]), (IN_TURNS, BLOCKS[0])], ids=str
)
@every_sizes
def test_to_rows_adds_products(sizes, teams, block):
    operands = rows_of(sizes, SUMMED), rows_of(sizes, SUMMED, seed=3)
    weights = tuple(weights_of(OUTPUTS, SUMMED, seed=seed) for seed in (1, 2))
    assert_as_plain(sizes, operands, weights, (), as_they_are, True, block, teams)


@needs_the_new_simulator
@every_sizes
def test_to_rows_takes_an_activations_gradient(sizes, teams):
    beside = rows_of(sizes, OUTPUTS, seed=2), rows_of(sizes, OUTPUTS, seed=3)
    rows, weights = (rows_of(sizes, SUMMED),), (weights_of(OUTPUTS, SUMMED, seed=1),)
    finish = GATED.recompute_and_pull
    assert_as_plain(sizes, rows, weights, beside, finish, True, BLOCKS[0], teams)


TO_WEIGHTS = {TOGETHER: Block(64, 128, 256, 8, 3), IN_TURNS: Block(64, 128, 128, 8, 3)}


@needs_the_new_simulator
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@every_sizes
def test_to_weights(sizes, dtype, teams):
    operands = rows_of(sizes, SUMMED), rows_of(sizes, OUTPUTS, seed=1), jnp.array(sizes)
    like = jax.ShapeDtypeStruct((5, SUMMED, OUTPUTS), dtype)
    found = call_to_weights(*operands, like, TO_WEIGHTS[teams], teams)
    assert_same(found, PLAIN.to_weights(*operands, dtype))
    assert_no_race()


@needs_the_new_simulator
def test_in_turns_a_weight_gradient_is_its_experts_alone():
    """Where groups share a tile, the neighbours' are NaN too."""
    sizes, spoiled = SIZES["unaligned"], 1
    rows, d_outputs = rows_of(sizes, SUMMED), rows_of(sizes, OUTPUTS, seed=1)
    operands = rows, d_outputs.at[sizes[0]].set(jnp.inf), jnp.array(sizes)
    like = jax.ShapeDtypeStruct((5, SUMMED, OUTPUTS), "float32")
    found = np.array(call_to_weights(*operands, like, TO_WEIGHTS[IN_TURNS], IN_TURNS))
    expected = np.array(PLAIN.to_weights(rows, d_outputs, operands[2], "float32"))
    assert not np.isfinite(found[spoiled]).any()
    others = np.arange(5) != spoiled
    assert_same(found[others], expected[others])


@needs_the_new_simulator
def test_float16(teams):
    sizes = SIZES["unaligned"]
    rows, weights, d_outputs = (
        array.astype(jnp.float16)
        for array in (
            rows_of(sizes, SUMMED),
            weights_of(SUMMED, OUTPUTS, seed=1),
            rows_of(sizes, OUTPUTS, seed=2),
        )
    )
    assert_as_plain(sizes, (rows,), (weights,), (), as_they_are, False, BLOCKS[0], teams)
    turned = weights.swapaxes(1, 2)
    assert_as_plain(sizes, (rows,), (turned,), (), as_they_are, True, BLOCKS[0], teams)
    operands = rows, d_outputs, jnp.array(sizes)
    like = jax.ShapeDtypeStruct((5, SUMMED, OUTPUTS), "float16")
    found = call_to_weights(*operands, like, TO_WEIGHTS[teams], teams)
    assert_same(found, PLAIN.to_weights(*operands, "float16"))
    assert_no_race()


@pytest.mark.parametrize("height", [64, 128])
@every_sizes
def test_tiles_cover_each_live_row_once(sizes, height):
    tiles = AlignedTiles.of(jnp.array(sizes), ROWS, height)
    found = np.full(ROWS, -1)
    for expert, first, start, end in zip(*map(np.asarray, tiles), strict=True):
        assert first % ALIGNMENT == 0
        own = np.arange(max(start, first), max(start, min(end, first + height)))
        assert (found[own] == -1).all()
        found[own] = expert
    np.testing.assert_array_equal(found[: sum(sizes)], np.repeat(np.arange(5), sizes))
    assert (found[sum(sizes) :] == -1).all()


def test_as_many_tiles_as_there_can_be():
    """Every expert's rows begin as far behind a tile as they can, and end just behind one."""
    tiles = AlignedTiles.of(jnp.array([7] + [64 + 8 * 8] * 3), 400, 128)
    assert int(jnp.sum(tiles.end > 0)) == 7


SHAPES = [
    LegShape(leg, 65536, 16, *widths, products, "bfloat16")
    for leg in hopper.BLOCKS
    for widths in [(2048, 1024), (768, 1536), (1024, 512)]
    for products in ([1] if leg == "to_weights" else [1, 2])
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_there_are_blocks_for_the_papers_shapes(shape, teams):
    found = hopper_candidates(shape, teams)
    assert found
    for block in found:
        assert shape.inputs % block.inputs == shape.outputs % block.outputs == 0
        assert hopper._shared_memory(block, shape) <= HOPPER_MEMORY


@pytest.mark.parametrize("leg", hopper.BLOCKS)
def test_every_block_is_of_use_somewhere(leg, teams):
    shapes = [shape for shape in SHAPES if shape.leg == leg]
    used = {block for shape in shapes for block in hopper_candidates(shape, teams)}
    assert used == set((hopper.BLOCKS_IN_TURNS if teams == IN_TURNS else hopper.BLOCKS)[leg])


def test_what_blocks_do_not_divide_or_is_float32_has_none(teams):
    for changes in ({"inputs": 1000}, {"dtype": "float32"}, {"outputs": 32}):
        assert hopper_candidates(SHAPES[0]._replace(**changes), teams) == ()


def test_what_no_kernel_can_be_made_of():
    one, two = SHAPES[0], SHAPES[0]._replace(products=2)
    assert not hopper_fits(Block(128, 64, 256, 8, 9), one), "no room for nine stages"
    assert not hopper_fits(Block(64, 64, 128, 8, 2), one), "a quarter of 64 rows"
    assert not hopper_fits(Block(128, 64, 32, 8, 2), one), "less than is finished at a time"
    assert not hopper_fits(Block(128, 32, 128, 8, 2), one), "and than a block is wide"
    assert hopper_fits(Block(128, 64, 256, 8, 2), one)
    assert not hopper_fits(Block(128, 64, 256, 8, 2), two), "no registers for two sums"
    assert not hopper_fits(Block(128, 64, 256, 8, 2), one, IN_TURNS), "nor for both halves"
    assert hopper_fits(Block(128, 64, 128, 8, 2), two)
    assert not hopper_fits(Block(128, 64, 128, 8, 2), two, IN_TURNS)


@pytest.mark.parametrize(("capability", "there"), [("9.0", True), ("8.0", False), (None, False)])
def test_only_a_hopper_has_them(capability, there, monkeypatch):
    class Device:
        compute_capability = capability

    monkeypatch.setattr(hopper, "target_device", Device)
    assert ("hopper" in by_leg.available()) == there
    assert ("hopper_in_turns" in by_leg.available()) == there
    monkeypatch.setenv("CARTESIAN_MOE_WITHOUT", "tokamax_triton,hopper")
    assert "hopper" not in by_leg.available() and "triton" in by_leg.available()
    assert ("hopper_in_turns" in by_leg.available()) == there, "it is left out by its own name"


@pytest.mark.parametrize("leg", hopper.BLOCKS)
def test_unmeasured_they_are_taken_where_they_can_be(leg):
    shape = next(shape for shape in SHAPES if shape.leg == leg)
    both = ("triton", "hopper")
    assert by_leg.default(shape, both) == by_leg.Choice("hopper", hopper_candidates(shape)[0])
    assert by_leg.default(shape, both[:1]).backend == "triton"
    assert by_leg.default(shape._replace(dtype="float32"), both).backend == "triton"
    every = by_leg.default(shape, (*both, "hopper_in_turns"))
    assert every.backend == "hopper", "turns were never measured"
    few = by_leg.default(shape._replace(rows=8 * shape.experts), both)
    assert few.backend == ("hopper" if leg == "to_weights" else "triton"), "as in decoding"


def test_turns_are_taken_where_they_were_measured_to_be_faster(monkeypatch):
    shape = next(shape for shape in SHAPES if shape.leg == "to_rows")
    shared, own = (
        Choice(name, by_leg.CANDIDATES[name](shape)[0]) for name in ("hopper", "hopper_in_turns")
    )
    found = timings.parse(
        timings.as_json((Timing(shape, shared, 2.0), Timing(shape, own, 1.0))), "a file"
    )
    monkeypatch.setattr(by_leg, "timings_of", lambda _: found)
    assert by_leg.choose(shape, ("triton", "hopper", "hopper_in_turns")) == own
    assert by_leg.choose(shape, ("triton", "hopper")) == shared
    assert described(own).startswith("hopper_in_turns 128x128x64 ")


@pytest.mark.parametrize("leg", hopper.BLOCKS)
def test_of_blocks_of_one_size_the_deepest_is_tried(leg, teams):
    for shape in [shape for shape in SHAPES if shape.leg == leg]:
        sizes = [(b.rows, b.inputs, b.outputs) for b in hopper_candidates(shape, teams)]
        assert len(set(sizes)) == len(sizes)


@pytest.mark.parametrize("name", ["swiglu", "reglu", "relu"])
def test_hopper_forms_compute_the_same(name):
    activation = get_activation(name)
    pre = [30 * numbers(64, 8, seed=seed) for seed in range(2 if activation.gated else 1)]
    arrays = [array.astype(jnp.float32) for array in [numbers(64, 8, seed=3), *pre]]
    forms = in_hopper_forms(activation.recompute_and_pull)
    program = str(jax.make_jaxpr(forms)(*arrays))
    assert not any(name in program for name in ("add_any", "logistic"))
    for found, expected in zip(forms(*arrays), activation.recompute_and_pull(*arrays), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
