"""Rotary position embedding (arXiv 2104.09864), half-split."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def rotate(x: Float[Array, "batch seq heads d_head"], base: float) -> Float[Array, "..."]:
    """Turn the pairs (x_i, x_{i + d_head/2}) of position t by t * base^(-2i / d_head).

    Computed in float32, returned in x's dtype.
    """
    half = x.shape[-1] // 2
    frequencies = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = jnp.arange(x.shape[1], dtype=jnp.float32)[:, None, None] * frequencies
    first, second = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)
