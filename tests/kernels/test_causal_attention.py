"""Every kernel against the library's plain form, in values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cartesian_moe_jax.kernels import ATTENTIONS, best_causal_attention
from cartesian_moe_jax.kernels.splash_attention import block_of
from cartesian_moe_jax.platform import compiling_for


def outcome(name, inputs, cotangent):
    """The output and the gradients of query, key and value."""
    out, pull = jax.vjp(ATTENTIONS[name].run, *inputs)
    return out, *pull(cotangent)


def assert_equals_the_library(name, shape, dtype, tolerance):
    keys = jax.random.split(jax.random.key(0), 4)
    *inputs, cotangent = (jax.random.normal(k, shape, dtype) for k in keys)
    ours, theirs = (outcome(n, inputs, cotangent) for n in (name, "xla"))
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == jnp.dtype(dtype)
        np.testing.assert_allclose(
            a.astype(jnp.float32), b.astype(jnp.float32), rtol=tolerance, atol=tolerance
        )


D_HEADS = (1, 8, 20, 64, 100)
DTYPES = pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 3e-2)])


@pytest.mark.parametrize("seq", [1, 63, 129, 200])
@DTYPES
def test_blocked(seq, dtype, tolerance):
    assert_equals_the_library("blocked", (2, seq, 3, 8), dtype, tolerance)


@pytest.mark.parametrize(
    "d_head", [pytest.param(d, marks=[pytest.mark.long] * (d in (1, 100))) for d in D_HEADS]
)
@pytest.mark.parametrize("seq", [1, 16, 47, 48, 49, 200])
def test_native(seq, d_head):
    assert_equals_the_library("native", (2, seq, 3, d_head), "float32", 1e-5)


def test_native_hides_no_nan():
    """What a query that is not a number reads is none either; other queries are as they were."""
    query, key, value = jax.random.normal(jax.random.key(0), (3, 1, 60, 2, 8))
    clean = ATTENTIONS["native"].run(query, key, value)
    read = ATTENTIONS["native"].run(query.at[0, 20, 1, 3].set(jnp.nan), key, value)
    np.testing.assert_array_equal(read, clean.at[0, 20, 1].set(jnp.nan))


@pytest.mark.parametrize(("seq", "d_head"), [(1, 8), (200, 64), (256, 128), (129, 136)])
@DTYPES
def test_splash(seq, d_head, dtype, tolerance):
    assert_equals_the_library("splash", (2, seq, 3, d_head), dtype, tolerance)


@pytest.mark.parametrize(
    ("filled", "block"), [(128, 128), (4096, 512), (8192, 512), (1152, 384), (1280, 256)]
)
def test_blocks_of_splash_divide_the_sequence(filled, block):
    assert block_of(filled) == block


@pytest.mark.parametrize(
    ("platform", "dtype", "d_head", "name"),
    [
        ("cpu", "float32", 64, "native"),
        ("cpu", "bfloat16", 64, "blocked"),
        ("tpu", "bfloat16", 64, "splash"),
        ("tpu", "float32", 20, "splash"),
        ("gpu", "bfloat16", 128, "cudnn"),
        ("gpu", "float32", 128, "xla"),
        ("gpu", "bfloat16", 192, "xla"),
        ("gpu", "bfloat16", 20, "xla"),
    ],
)
def test_the_target_decides(platform, dtype, d_head, name):
    with compiling_for(platform):
        assert best_causal_attention(jnp.dtype(dtype), d_head) is ATTENTIONS[name]
