"""Each leg by itself against the plain loop: its sums, and what it finishes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cartesian_moe_jax.kernels.blocks import LegShape, candidates
from cartesian_moe_jax.kernels.leg_groups import sparse_groups
from cartesian_moe_jax.kernels.leg_trials import moved_bytes, operands, operations, run_of
from cartesian_moe_jax.kernels.megablox import MEGABLOX
from cartesian_moe_jax.kernels.mosaic import MOSAIC
from cartesian_moe_jax.kernels.plain import PLAIN
from cartesian_moe_jax.kernels.ragged import RAGGED
from cartesian_moe_jax.kernels.relative_error import error_of_leg
from cartesian_moe_jax.kernels.triton import triton_matmul

LEGS = [("forward", 1), ("forward", 2), ("to_rows", 1), ("to_rows", 2), ("to_weights", 1)]
SIZES = {
    "unaligned": [33, 1, 70, 0, 26],
    "one hot expert": [0, 0, 130, 0, 0],
    "single rows": [1, 1, 1, 1, 1],
    "nothing": [0, 0, 0, 0, 0],
}
ROWS = 130
TOLERANCE = {"float32": 1e-6, "bfloat16": 1e-2}


def shape_of(leg, products, dtype="float32", widths=(128, 64)):
    return LegShape(leg, ROWS, 5, *widths, products, dtype)


def with_sizes(shape, sizes):
    """Operands with the given loads; rows behind them hold NaN."""
    first, second, _, *beside = operands(shape)
    behind = (jnp.arange(ROWS) >= sum(sizes))[:, None]

    def spoil(array):
        return jnp.where(behind, jnp.nan, array) if array.shape[0] == ROWS else array

    first, second, beside = jax.tree.map(spoil, (first, second, beside))
    return first, second, jnp.array(sizes), *beside


def live(shape, sizes, results):
    """What is promised: gradients of weights, and live rows."""
    return results if shape.leg == "to_weights" else [r[: sum(sizes)] for r in results]


def by_hand(shape, first, second, sizes):
    """The product in numpy, one row at a time."""
    experts = np.repeat(np.arange(len(sizes)), sizes)
    if shape.leg == "to_weights":
        total = np.zeros((len(sizes), shape.inputs, shape.outputs))
        for row, expert in enumerate(experts):
            total[expert] += np.outer(first[row], second[row])
        return total
    weight, rows = second[0], first
    if shape.leg == "to_rows":
        weight, (rows,) = weight.swapaxes(1, 2), first
    return np.stack([rows[row] @ weight[expert] for row, expert in enumerate(experts)])


@pytest.mark.parametrize("leg", ["forward", "to_rows", "to_weights"])
@pytest.mark.parametrize("matmul", [PLAIN, RAGGED], ids=["plain", "ragged"])
def test_the_plain_loop_follows_the_definition(leg, matmul):
    shape, sizes = shape_of(leg, 1), SIZES["unaligned"]
    first, second, group_sizes, *_ = with_sizes(shape, sizes)
    arrays = jax.tree.map(np.asarray, (first, second))
    if leg == "forward":
        (found,) = matmul.forward(first, second, group_sizes, lambda product: (product,))
    elif leg == "to_rows":
        (found,) = matmul.to_rows(first, second, group_sizes, lambda product: (product,))
    else:
        found = matmul.to_weights(first, second, group_sizes, "float32")
    expected = by_hand(shape, *arrays, sizes)
    found = found if leg == "to_weights" else found[: sum(sizes)]
    np.testing.assert_allclose(found, expected, atol=2e-5)


NARROW = {
    "plain": lambda shape: PLAIN,
    "ragged": lambda shape: RAGGED,
    "megablox": lambda shape: MEGABLOX,
    "mosaic": lambda shape: MOSAIC,
    "triton": lambda shape: triton_matmul(candidates(shape)[-1]),
}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", NARROW)
def test_sums_in_the_weights_dtype_are_rounded_once(name, dtype):
    shape = shape_of("to_weights", 1, dtype)
    operands, matmul = with_sizes(shape, SIZES["unaligned"]), NARROW[name](shape)
    wide, narrow = (
        jax.jit(lambda *a, d=d: matmul.to_weights(*a, d))(*operands)
        for d in ("float32", "bfloat16")
    )
    assert (wide.dtype, narrow.dtype) == (jnp.float32, jnp.bfloat16)
    np.testing.assert_array_equal(np.float32(narrow), np.float32(wide.astype(jnp.bfloat16)))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize(("leg", "products"), LEGS)
@pytest.mark.parametrize("name", ["mosaic", "triton"])
def test_legs_of_our_kernels_equal_the_plain_loop(name, leg, products, sizes, dtype):
    shape = shape_of(leg, products, dtype)
    arguments = with_sizes(shape, sizes)
    expected = jax.jit(run_of(shape, PLAIN))(*arguments)
    found = jax.jit(run_of(shape, NARROW[name](shape)))(*arguments)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), found) == jax.tree.map(
        lambda a: (a.shape, a.dtype), expected
    )
    found, expected = (
        [r] if shape.leg == "to_weights" else live(shape, sizes, r) for r in (found, expected)
    )
    for a, b in zip(found, expected, strict=True):
        largest = np.abs(np.asarray(b, np.float32)).max(initial=1e-6)
        np.testing.assert_allclose(
            np.asarray(a, np.float32),
            np.asarray(b, np.float32),
            rtol=0,
            atol=TOLERANCE[dtype] * largest,
        )


@pytest.mark.parametrize(("leg", "products"), LEGS)
def test_every_block_computes_the_same(leg, products):
    shape = shape_of(leg, products, "bfloat16", (128, 128))
    arguments = with_sizes(shape, SIZES["unaligned"])
    expected = jax.jit(run_of(shape, PLAIN))(*arguments)
    for block in candidates(shape):
        found = jax.jit(run_of(shape, triton_matmul(block)))(*arguments)
        assert error_of_leg(shape, arguments[2], found, expected).worst < 1e-2, block


def test_an_error_is_that_of_the_worst_row_that_is_in_a_group():
    shape = shape_of("forward", 2)
    right = [jnp.ones((ROWS, 2))] * 3
    wrong = [right[0], right[1].at[7].set(0.5), right[2].at[120].set(jnp.nan)]
    few = error_of_leg(shape, jnp.array([0, 50, 70]), wrong, right)
    assert (few.whole, few.worst) == (pytest.approx(0.5 * 120**-0.5), 0.5)
    assert error_of_leg(shape, jnp.array([0, 50, 71]), wrong, right).worst == np.inf


@pytest.mark.parametrize(("rows", "experts"), [(130, 5), (1, 1), (3, 2), (40, 2), (16, 256)])
def test_groups_of_any_size_are_within_the_rows(rows, experts):
    shape = LegShape("to_weights", rows, experts, 64, 64, 1, "bfloat16")
    sizes = np.asarray(sparse_groups(shape))
    assert sizes.shape == (experts,) and 0 < sizes.sum() <= rows
    assert experts < 3 or (sizes == 0).any()


def test_operations_are_those_of_the_products():
    assert operations(shape_of("forward", 2)) == 2 * 2 * ROWS * 128 * 64
    assert operations(shape_of("to_weights", 1)) == 2 * ROWS * 128 * 64


@pytest.mark.parametrize(
    ("leg", "products", "moved"),
    [
        ("forward", 1, 2 * (130 * 128 + 5 * 128 * 64 + 130 * 64)),
        # What enters the activation is kept, and what leaves it.
        ("forward", 2, 2 * (130 * 128 + 2 * 5 * 128 * 64 + 3 * 130 * 64)),
        # With the activation's gradient: beside it two arrays are read and three are written.
        ("to_rows", 1, 2 * (130 * 64 + 5 * 128 * 64 + (2 + 3) * 130 * 128)),
        ("to_rows", 2, 2 * (2 * 130 * 64 + 2 * 5 * 128 * 64 + 130 * 128)),
        ("to_weights", 1, 2 * (130 * 128 + 130 * 64) + 4 * 5 * 128 * 64),
    ],
)
def test_what_must_be_moved_is_every_operand_and_result(leg, products, moved):
    sizes_of_groups = 4 * 5
    assert moved_bytes(shape_of(leg, products, "bfloat16")) == moved + sizes_of_groups
