"""Attention of a text's new tokens to keys and values that were kept, and to each other."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def cached_attention(
    query: Float[Array, "batch new heads d_head"],
    key: Float[Array, "batch new heads d_head"],
    value: Float[Array, "batch new heads d_head"],
    kept_key: Float[Array, "batch capacity heads d_head"],
    kept_value: Float[Array, "batch capacity heads d_head"],
    length: Int[Array, "batch"],
) -> Float[Array, "batch new heads d_head"]:
    """softmax(q k^T / sqrt(d_head)) v over the first `length` kept positions and the new ones.

    In the dtype of the query; the softmax in float32. New tokens see those before them. What lies
    behind `length` may be anything finite. For few new tokens: all scores are held at once.
    """
    new, capacity = query.shape[1], kept_key.shape[1]
    scale = 1 / math.sqrt(query.shape[-1])
    is_kept = jnp.arange(capacity) < length[:, None]
    is_before = jnp.arange(new) <= jnp.arange(new)[:, None]
    scores = jnp.concatenate(
        [
            jnp.where(is_kept[:, None, None], _scores(query, kept_key), -jnp.inf),
            jnp.where(is_before, _scores(query, key), -jnp.inf),
        ],
        axis=-1,
    )
    weights = jax.nn.softmax(scale * scores, axis=-1).astype(query.dtype)
    read = _read(weights[..., :capacity], kept_value) + _read(weights[..., capacity:], value)
    return read.astype(query.dtype)


def _scores(
    query: Float[Array, "batch new heads d_head"], key: Float[Array, "batch seq heads d_head"]
) -> Float[Array, "batch heads new seq"]:
    return jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32)


def _read(
    weights: Float[Array, "batch heads new seq"], value: Float[Array, "batch seq heads d_head"]
) -> Float[Array, "batch new heads d_head"]:
    return jnp.einsum("bhqk,bkhd->bqhd", weights, value, preferred_element_type=jnp.float32)
