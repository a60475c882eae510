"""One transformer layer: attention, then a feed-forward layer of some kind."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from cartesian_moe_jax.config import ModelConfig
from cartesian_moe_jax.layers.rms_norm import RMSNorm
from cartesian_moe_jax.models.attention import Attention
from cartesian_moe_jax.models.feed_forwards import FEED_FORWARDS
from cartesian_moe_jax.models.kv_cache import KeyValues, Past
from cartesian_moe_jax.moe.routing import RouterContext, RoutingStats
from cartesian_moe_jax.parallel.layouts import Layout


class Block(nnx.Module):
    """h += Attention(RMS(h)), then the feed-forward layer."""

    def __init__(self, kind: str, config: ModelConfig, layout: Layout, *, rngs: nnx.Rngs):
        self.norm = RMSNorm(config.d_model, config.rms_norm_eps)
        self.attention = Attention(
            config.d_model, config.num_heads, config.rope_base, config.init_std, rngs=rngs
        )
        self.feed_forward = FEED_FORWARDS[kind].build(config, layout, rngs=rngs)

    def __call__(
        self,
        h: Float[Array, "batch seq d_model"],
        context: RouterContext,
        past: Past | None = None,
    ) -> tuple[Float[Array, "batch seq d_model"], RoutingStats | None, KeyValues]:
        """Return the residual stream behind the layer, the routing statistics of MoE layers, and
        what attention to these positions needs. ``past``: see ``Attention``."""
        read, own = self.attention(self.norm(h), past)
        h = h + read
        rows, stats = self.feed_forward(h.reshape(-1, h.shape[-1]), context)
        return jnp.reshape(rows, h.shape), stats, own
