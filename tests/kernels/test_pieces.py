"""Products by bfloat16 pieces against float64, and against products in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from cartesian_moe_jax.kernels.pieces import pieces, product_by_pieces

SIZES = [(1, 1, 1), (7, 33, 5), (513, 129, 17), (256, 1000, 64)]
"""Tokens, inputs, outputs."""
DECADES = pytest.mark.parametrize("decades", [0, 2], ids=["narrow", "wide"])
"""How many decades the sizes of numbers lie apart, as a standard deviation."""


def operands(tokens, inputs, outputs, decades=0):
    """x, W and the gradient of x W."""
    rng = np.random.default_rng(tokens)
    shapes = [(tokens, inputs), (inputs, outputs), (tokens, outputs)]
    x, weight, d_output = (
        rng.normal(size=shape) * 10 ** (decades * rng.normal(size=shape)) for shape in shapes
    )
    return jnp.bfloat16(x), jnp.float32(0.02 * weight), jnp.float32(1e-4 * d_output)


def float32_dot(x, weight):
    return jnp.dot(x.astype(jnp.float32), weight, precision=jax.lax.Precision.HIGHEST)


def by(product):
    """The product and its gradients, compiled."""

    @jax.jit
    def run(x, weight, d_output):
        output, pull = jax.vjp(product, x, weight)
        return (output, *pull(d_output))

    return run


def in_float64(x, weight, d_output):
    x, weight, d_output = map(np.float64, (x, weight, d_output))
    return x @ weight, d_output @ weight.T, x.T @ d_output


def added_up(arrays):
    """The same with all numbers positive: what roundings are relative to."""
    return in_float64(*map(jnp.abs, arrays))


@DECADES
@pytest.mark.parametrize("size", SIZES)
def test_product_and_gradient_of_weight_are_those_of_float32(size, decades):
    arrays = operands(*size, decades)
    sizes = added_up(arrays)
    ours, theirs, exact = (
        by(product_by_pieces)(*arrays),
        by(float32_dot)(*arrays),
        in_float64(*arrays),
    )
    for i in (0, 2):
        assert ours[i].dtype == jnp.float32
        error, allowed = (np.max(np.abs(a[i] - exact[i]) / sizes[i]) for a in (ours, theirs))
        assert error <= 2 * allowed + 2**-22


@DECADES
@pytest.mark.parametrize("size", SIZES)
def test_gradient_of_x_loses_next_to_nothing_but_its_rounding(size, decades):
    arrays = operands(*size, decades)
    d_x, exact = by(product_by_pieces)(*arrays)[1], in_float64(*arrays)[1]
    assert d_x.dtype == jnp.bfloat16
    rounding = 2**-8 * np.abs(exact)
    assert np.all(np.abs(np.float64(d_x) - exact) <= rounding + 2**-14 * added_up(arrays)[1])


def test_pieces_add_up_to_the_whole_when_compiled():
    weight = operands(1, 64, 48, decades=3)[1]
    found = jax.jit(pieces)(weight)
    assert [piece.dtype for piece in found] == [jnp.bfloat16] * 3
    np.testing.assert_array_equal(sum(map(np.float64, found)), np.float64(weight))


def test_no_piece_is_read_back_from_bfloat16():
    """Compilers for accelerators take a cast there and back for nothing."""
    text = jax.jit(pieces).lower(jax.ShapeDtypeStruct((64, 48), jnp.float32)).as_text()
    assert text.count("reduce_precision") == text.count("xf32>) -> tensor<64x48xbf16>") == 3
    assert "xbf16>) -> tensor<64x48xf32>" not in text


def test_nothing_is_lost_of_a_product_with_one():
    """Every bit arrives, so the compiler has dropped no piece and no rounding."""
    _, weight, d_output = operands(64, 64, 48, decades=3)
    output, _, d_weight = by(product_by_pieces)(jnp.eye(64, dtype=jnp.bfloat16), weight, d_output)
    np.testing.assert_array_equal(output, weight)
    np.testing.assert_array_equal(d_weight, d_output)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_what_is_not_finite_stays_where_it_is(bad):
    x, weight, d_output = operands(7, 33, 5)
    output, _, d_weight = by(product_by_pieces)(
        x, weight.at[4, 2].set(bad), d_output.at[3, 1].set(bad)
    )
    for result, column in ((output, 2), (d_weight, 1)):
        finite = np.isfinite(result)
        assert not finite[:, column].any()
        assert np.delete(finite, column, axis=1).all()


def over_devices(x, weight):
    mesh = jax.make_mesh((8,), ("one",), axis_types=(jax.sharding.AxisType.Auto,))
    specs = (P("one"), P())
    return jax.shard_map(product_by_pieces, mesh=mesh, in_specs=specs, out_specs=P("one"))(
        x, weight
    )


def vmapped(x, weight):
    halves = x.reshape(2, -1, x.shape[1])
    return jax.vmap(product_by_pieces, (0, None))(halves, weight).reshape(x.shape[0], -1)


def scanned(x, weight):
    @jax.checkpoint
    def body(_, half):
        return None, product_by_pieces(half, weight)

    return jax.lax.scan(body, None, x.reshape(2, -1, x.shape[1]))[1].reshape(x.shape[0], -1)


@pytest.mark.parametrize("product", [over_devices, vmapped, scanned])
def test_parts_of_the_tokens_give_the_whole(product):
    arrays = operands(16, 33, 5)
    for ours, theirs in zip(by(product)(*arrays), by(product_by_pieces)(*arrays), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(np.float32(ours), np.float32(theirs), rtol=1e-5, atol=1e-9)
