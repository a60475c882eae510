"""Causal attention by blocks of queries: plain XLA, and the fastest of it on CPU."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_LEAST_BLOCK, _MOST_BLOCKS = 64, 8


def blocked_attention(
    query: Float[Array, "batch seq heads d_head"],
    key: Float[Array, "batch seq heads d_head"],
    value: Float[Array, "batch seq heads d_head"],
) -> Float[Array, "batch seq heads d_head"]:
    """See `CausalAttention`; each block of queries reads no keys behind its last one.

    On CPU `jax.nn.dot_product_attention` takes 2 to 5 times as long.
    """
    seq, d_head = query.shape[1], query.shape[-1]
    blocks = min(max(seq // _LEAST_BLOCK, 1), _MOST_BLOCKS)
    height = -(-seq // blocks)
    query, key, value = (a.swapaxes(1, 2) for a in (query * d_head**-0.5, key, value))
    read = [
        _attend(query[:, :, start:end], key[:, :, :end], value[:, :, :end], start)
        for start, end in ((s, min(s + height, seq)) for s in range(0, seq, height))
    ]
    return jnp.concatenate(read, axis=2).swapaxes(1, 2)


def _attend(
    query: Float[Array, "batch heads block d_head"],
    key: Float[Array, "batch heads keys d_head"],
    value: Float[Array, "batch heads keys d_head"],
    start: int,
) -> Float[Array, "batch heads block d_head"]:
    """Attention of the queries at positions start, start + 1, ..."""
    scores = jnp.einsum("bhqk,bhsk->bhqs", query, key, preferred_element_type=jnp.float32)
    position = start + jnp.arange(query.shape[2])
    scores = jnp.where(position[:, None] >= jnp.arange(key.shape[2]), scores, -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("bhqs,bhsk->bhqk", weights, value)
