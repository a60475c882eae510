"""Rotary position embedding (arXiv 2104.09864), half-split."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def rotate(x: Float[Array, "batch seq heads d_head"], base: float) -> Float[Array, "..."]:
    """Turn the pairs (x_i, x_{i + d_head/2}) of position t by t * base^(-2i / d_head).

    Computed in float32, returned in x's dtype.
    """
    return _turn(x, base, 1)


def _forward(
    x: Float[Array, "batch seq heads d_head"], base: float
) -> tuple[Float[Array, "..."], None]:
    return _turn(x, base, 1), None


def _backward(
    base: float, _: None, d_turned: Float[Array, "batch seq heads d_head"]
) -> tuple[Float[Array, "..."]]:
    """A rotation is undone by its transpose. Autodiff would pad both halves and add them."""
    return (_turn(d_turned, base, -1),)


rotate.defvjp(_forward, _backward)


def rotate_at(
    x: Float[Array, "batch seq heads d_head"], base: float, first: Int[Array, "batch"]
) -> Float[Array, "batch seq heads d_head"]:
    """`rotate`, of texts whose positions begin at ``first``. Not for training."""
    return _turn(x, base, 1, first[:, None] + jnp.arange(x.shape[1]))


def _turn(
    x: Float[Array, "batch seq heads d_head"],
    base: float,
    direction: int,
    positions: Int[Array, "batch seq"] | None = None,
) -> Float[Array, "batch seq heads d_head"]:
    half = x.shape[-1] // 2
    frequencies = direction * base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    positions = jnp.arange(x.shape[1]) if positions is None else positions
    angles = positions.astype(jnp.float32)[..., None, None] * frequencies
    first, second = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)
