"""The few largest of a row, found one by one as on GPU, against jax's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cartesian_moe_jax.kernels import largest
from cartesian_moe_jax.kernels.largest import FEW
from cartesian_moe_jax.platform import compiling_for

ROWS = {
    "as they come": np.random.default_rng(0).uniform(size=(33, 17)),
    "many equal": np.random.default_rng(0).integers(0, 3, (33, 17)) / 4,
    "all equal": np.ones((5, 9)),
    "one is one": np.eye(9),
}


@pytest.mark.parametrize("k", [1, 2, FEW, FEW + 1])
@pytest.mark.parametrize("values", ROWS.values(), ids=ROWS.keys())
def test_as_jax_finds_them(values, k):
    values = jnp.asarray(values, jnp.float32)
    with compiling_for("gpu"):
        found = largest(values, k)
    for one, other in zip(found, jax.lax.top_k(values, k), strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype


@pytest.mark.parametrize("values", ROWS.values(), ids=ROWS.keys())
def test_gradients_go_to_what_was_found(values):
    values = jnp.asarray(values, jnp.float32)
    d_largest = jnp.arange(1.0, 1 + 3 * len(values)).reshape(-1, 3)
    with compiling_for("gpu"):
        (found,) = jax.vjp(lambda v: largest(v, 3)[0], values)[1](d_largest)
    (expected,) = jax.vjp(lambda v: jax.lax.top_k(v, 3)[0], values)[1](d_largest)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("k", [FEW, FEW + 1])
def test_only_on_gpu_and_only_a_few_are_found_one_by_one(k):
    def sorts():
        return "top_k" in str(jax.make_jaxpr(lambda v: largest(v, k))(jnp.ones((4, 20))))

    assert sorts()
    with compiling_for("gpu"):
        assert sorts() == (k > FEW)
