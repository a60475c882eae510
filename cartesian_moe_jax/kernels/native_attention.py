"""Causal attention on CPU by compiled kernels (kernels/native/attention.cc), in float32."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from cartesian_moe_jax.kernels.attention_residuals import ATTENTION_RESIDUALS
from cartesian_moe_jax.kernels.native_call import native_call
from cartesian_moe_jax.kernels.native_library import native_library_problem


class Residuals(NamedTuple):
    """What the forward pass leaves for the backward pass."""

    query: Float[Array, "batch seq heads d_head"]
    key: Float[Array, "batch seq heads d_head"]
    value: Float[Array, "batch seq heads d_head"]
    most: Float[Array, "batch heads seq"]
    """The highest score of each query."""
    inverses: Float[Array, "batch heads seq"]
    """One by the sum of what the softmax makes of its scores."""


def native_takes(dtype: jnp.dtype, d_head: int) -> bool:
    """Whether `native_attention` can run here."""
    return dtype == jnp.float32 and d_head > 0 and not native_library_problem()


@jax.custom_vjp
def native_attention(
    query: Float[Array, "batch seq heads d_head"],
    key: Float[Array, "batch seq heads d_head"],
    value: Float[Array, "batch seq heads d_head"],
) -> Float[Array, "batch seq heads d_head"]:
    """See `CausalAttention`; no array of seq x seq numbers is kept."""
    return _forward(query, key, value)[0]


def _forward(
    query: Float[Array, "batch seq heads d_head"],
    key: Float[Array, "batch seq heads d_head"],
    value: Float[Array, "batch seq heads d_head"],
) -> tuple[Float[Array, "batch seq heads d_head"], Residuals]:
    batch, seq, heads, _ = query.shape
    shapes = (query.shape, (batch, heads, seq), (batch, heads, seq))
    results = native_call("cartesian_moe_attend", shapes, query, key, value)
    output, *softmax = (checkpoint_name(result, ATTENTION_RESIDUALS) for result in results)
    return output, Residuals(query, key, value, *softmax)


def _backward(
    residuals: Residuals, d_output: Float[Array, "batch seq heads d_head"]
) -> tuple[Float[Array, "batch seq heads d_head"], ...]:
    shapes = (residuals.query.shape,) * 3
    return native_call("cartesian_moe_attend_gradients", shapes, *residuals, d_output)


native_attention.defvjp(_forward, _backward)
