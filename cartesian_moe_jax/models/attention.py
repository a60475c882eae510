"""Causal multi-head attention with rotary positions, no biases."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from cartesian_moe_jax.kernels import cached_attention
from cartesian_moe_jax.layers.initializers import normal
from cartesian_moe_jax.models.attend import attend
from cartesian_moe_jax.models.kv_cache import KeyValues, Past
from cartesian_moe_jax.models.rotary import rotate, rotate_at
from cartesian_moe_jax.parallel.mesh import over_batch


class Attention(nnx.Module):
    """softmax(q k^T / sqrt(d_head)) v, with the softmax in float32."""

    def __init__(
        self, d_model: int, num_heads: int, rope_base: float, std: float, *, rngs: nnx.Rngs
    ):
        d_head = d_model // num_heads
        self.query = normal(rngs, (d_model, num_heads, d_head), std)
        self.key = normal(rngs, (d_model, num_heads, d_head), std)
        self.value = normal(rngs, (d_model, num_heads, d_head), std)
        self.out = normal(rngs, (num_heads, d_head, d_model), std)
        self.rope_base = rope_base

    @jax.named_scope("attention")
    def __call__(
        self, x: Float[Array, "batch seq d_model"], past: Past | None = None
    ) -> tuple[Float[Array, "batch seq d_model"], KeyValues]:
        """Return what each position reads from itself and those before it, and its own keys.

        With a ``past``, positions follow its texts, and are few. Not for training.
        """
        x = over_batch(x)
        query, key, value = (
            jnp.einsum("bsd,dhk->bshk", x, w[...].astype(x.dtype))
            for w in (self.query, self.key, self.value)
        )
        if past is None:
            query, key = rotate(query, self.rope_base), rotate(key, self.rope_base)
            read = attend(query, key, value)
        else:
            query, key = (rotate_at(each, self.rope_base, past.position) for each in (query, key))
            read = cached_attention(query, key, value, *past.kept, past.is_filled)
        out = jnp.einsum("bshk,hkd->bsd", read, self.out[...].astype(x.dtype))
        return out, KeyValues.of(key, value)
