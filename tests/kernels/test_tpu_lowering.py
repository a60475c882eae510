"""What jax hands to the compiler for TPU, which needs no such compiler: kernels, no products."""

import functools

import jax
import jax.numpy as jnp
import pytest

from cartesian_moe_jax.kernels import (
    FeedForwardWeights,
    best_causal_attention,
    grouped_feed_forward,
)
from cartesian_moe_jax.platform import compiling_for


def lowered(forward, moved, cotangent):
    """The program of the output and the gradients of `moved`, as text."""

    def both(moved, cotangent):
        output, pull = jax.vjp(forward, *moved)
        return output, pull(cotangent)

    with compiling_for("tpu"):
        traced = jax.jit(both).trace(moved, cotangent)
        return traced.lower(lowering_platforms=("tpu",)).as_text()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("rows", [4096, 1000])
def test_experts(rows, dtype):
    x = jax.ShapeDtypeStruct((rows, 768), dtype)
    into, out = (jax.ShapeDtypeStruct((16, *s), jnp.float32) for s in ((768, 256), (256, 768)))
    run = functools.partial(grouped_feed_forward, activation="swiglu")
    sizes = jnp.full((16,), rows // 16)
    text = lowered(lambda x, w: run(x, sizes, w), (x, FeedForwardWeights(into, into, out)), x)
    assert "tpu_custom_call" in text
    assert "dot_general" not in text and "ragged_dot" not in text


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("shape", [(2, 1024, 2, 64), (1, 1025, 2, 128), (2, 200, 1, 20)])
def test_attention(shape, dtype):
    x = jax.ShapeDtypeStruct(shape, dtype)
    with compiling_for("tpu"):
        run = best_causal_attention(x.dtype, shape[-1]).run
    text = lowered(run, (x, x, x), x)
    assert text.count("tpu_custom_call") == 3
    seq = -(-shape[1] // 128) * 128
    assert f"x{seq}x{seq}x" not in text, "no scores"
