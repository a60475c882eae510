"""Attention of a text's new tokens to keys and values that were kept, and to each other."""

import math

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Bool, Float

from cartesian_moe_jax.platform import target_platform


def cached_attention(
    query: Float[Array, "batch new heads d_head"],
    key: Float[Array, "batch new heads d_head"],
    value: Float[Array, "batch new heads d_head"],
    kept_key: Float[Array, "batch heads capacity d_head"],
    kept_value: Float[Array, "batch heads capacity d_head"],
    is_kept: Bool[Array, "batch capacity"],
) -> Float[Array, "batch new heads d_head"]:
    """softmax(q k^T / sqrt(d_head)) v over what is kept, and the new tokens up to each.

    In the dtype of the query; the softmax in float32. What is not kept may be anything finite.
    For few new tokens: all scores are held at once.
    """
    new, capacity = query.shape[1], kept_key.shape[2]
    scale = 1 / math.sqrt(query.shape[-1])
    query, key, value = (jnp.swapaxes(each, 1, 2) for each in (query, key, value))
    kept_key, kept_value = _as_they_lie(kept_key), _as_they_lie(kept_value)
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
    return jnp.swapaxes(read, 1, 2).astype(query.dtype)


def _as_they_lie(
    kept: Float[Array, "batch heads capacity d_head"],
) -> Float[Array, "batch heads capacity d_head"]:
    """Keep XLA for GPU from turning over those of all layers before it slices this one's."""
    rows_first = Layout(major_to_minor=(0, 1, 2, 3))
    return with_layout_constraint(kept, rows_first) if target_platform() == "gpu" else kept


def _scores(
    query: Float[Array, "batch heads new d_head"], key: Float[Array, "batch heads seq d_head"]
) -> Float[Array, "batch heads new seq"]:
    return jnp.einsum("bhqd,bhkd->bhqk", query, key, preferred_element_type=jnp.float32)


def _read(
    weights: Float[Array, "batch heads new seq"], value: Float[Array, "batch heads seq d_head"]
) -> Float[Array, "batch heads new d_head"]:
    return jnp.einsum("bhqk,bhkd->bhqd", weights, value, preferred_element_type=jnp.float32)
