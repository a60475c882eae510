"""RMSNorm."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class RMSNorm(nnx.Module):
    """x * gain / sqrt(mean(x^2) + eps), with the statistics in float32."""

    def __init__(self, d_model: int, eps: float):
        self.gain = nnx.Param(jnp.ones((d_model,)))
        self.eps = eps

    @jax.named_scope("norm")
    def __call__(self, x: Float[Array, "*batch d_model"]) -> Float[Array, "*batch d_model"]:
        """Return the normalised x in x's dtype."""
        return _rms_norm(x, self.gain[...], self.eps)


class _Residuals(NamedTuple):
    """Kept for the backward pass: x as it came. Autodiff would keep it in float32 too."""

    x: Float[Array, "*batch d_model"]
    gain: Float[Array, "d_model"]
    scale: Float[Array, "*batch 1"]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _rms_norm(
    x: Float[Array, "*batch d_model"], gain: Float[Array, "d_model"], eps: float
) -> Float[Array, "*batch d_model"]:
    return _forward(x, gain, eps)[0]


def _forward(
    x: Float[Array, "*batch d_model"], gain: Float[Array, "d_model"], eps: float
) -> tuple[Float[Array, "*batch d_model"], _Residuals]:
    x32 = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + eps)
    return (x32 * scale * gain).astype(x.dtype), _Residuals(x, gain, scale)


def _backward(
    eps: float, residuals: _Residuals, d_normed: Float[Array, "*batch d_model"]
) -> tuple[Float[Array, "*batch d_model"], Float[Array, "d_model"]]:
    x, gain, scale = residuals
    unit, d_normed = x.astype(jnp.float32) * scale, d_normed.astype(jnp.float32)
    d_unit = d_normed * gain
    along = jnp.mean(d_unit * unit, axis=-1, keepdims=True)
    d_x = scale * (d_unit - along * unit)
    d_gain = jnp.sum(d_normed * unit, axis=tuple(range(x.ndim - 1)), dtype=jnp.float32)
    return d_x.astype(x.dtype), d_gain.astype(gain.dtype)


_rms_norm.defvjp(_forward, _backward)
