"""RMSNorm against its formula in float64, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cartesian_moe_jax.layers.rms_norm import RMSNorm
from cartesian_moe_jax.models.parameters import with_parameters

EPS = 1e-2
RNG = np.random.default_rng(0)


def formula(x, gain):
    return x * gain / np.sqrt((x**2).mean(-1, keepdims=True) + EPS)


def numeric_gradients(x, gain, d_normed, step=1e-5):
    """By differences, in float64."""

    def of(values, make):
        gradient = np.zeros_like(values)
        for at in np.ndindex(values.shape):
            moved = [values.copy(), values.copy()]
            moved[0][at] += step
            moved[1][at] -= step
            up, down = (np.sum(make(each) * d_normed) for each in moved)
            gradient[at] = (up - down) / (2 * step)
        return gradient

    return of(x, lambda x: formula(x, gain)), of(gain, lambda gain: formula(x, gain))


@pytest.mark.parametrize("shape", [(5, 8), (2, 3, 6), (0, 4), (7,)])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("bfloat16", 2e-2)])
def test_values_and_gradients(shape, dtype, tolerance):
    x, d_normed = (np.float64(jnp.asarray(RNG.normal(size=shape), dtype)) for _ in range(2))
    gain = 1 + 0.3 * RNG.normal(size=shape[-1:])

    def normed(x, gain):
        return with_parameters(RMSNorm(shape[-1], EPS), {"gain": gain})(x)

    arguments = jnp.asarray(x, dtype), jnp.asarray(gain, jnp.float32)
    found, pull = jax.vjp(normed, *arguments)
    gradients = pull(jnp.asarray(d_normed, dtype))
    expected = formula(x, gain), *numeric_gradients(x, gain, d_normed)
    assert [str(a.dtype) for a in (found, *gradients)] == [dtype, dtype, "float32"]
    for ours, theirs in zip((found, *gradients), expected, strict=True):
        np.testing.assert_allclose(np.float64(ours), theirs, rtol=tolerance, atol=tolerance)


def test_zeros_stay_zeros_and_have_finite_gradients():
    norm = RMSNorm(4, 1e-5)
    found, pull = jax.vjp(norm, jnp.zeros((3, 4)))
    assert not found.any() and np.isfinite(pull(jnp.ones((3, 4)))[0]).all()
