"""Blocked attention against the library's, in values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cartesian_moe_jax.kernels.causal_attention import blocked_causal_attention


@pytest.mark.parametrize("seq", [1, 63, 129, 200])
@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 3e-2)])
def test_equals_the_library(seq, dtype, tolerance):
    keys = jax.random.split(jax.random.key(0), 4)
    *inputs, cotangent = (jax.random.normal(k, (2, seq, 3, 8), dtype) for k in keys)

    def library(q, k, v):
        return jax.nn.dot_product_attention(q, k, v, is_causal=True)

    ours, theirs = (
        (out, *pull(cotangent))
        for out, pull in (jax.vjp(f, *inputs) for f in (blocked_causal_attention, library))
    )
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == jnp.dtype(dtype)
        np.testing.assert_allclose(
            a.astype(jnp.float32), b.astype(jnp.float32), rtol=tolerance, atol=tolerance
        )
