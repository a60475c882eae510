"""One transformer layer: attention, then a dense or a Cartesian feed-forward layer."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from cartesian_moe_jax.config import ModelConfig
from cartesian_moe_jax.layers.feed_forward import FeedForward
from cartesian_moe_jax.layers.rms_norm import RMSNorm
from cartesian_moe_jax.models.attention import Attention
from cartesian_moe_jax.moe.cartesian import CartesianProductLayer
from cartesian_moe_jax.moe.dispatch import Exchange
from cartesian_moe_jax.moe.routing import RouterContext, RoutingStats
from cartesian_moe_jax.moe.shape import SubLayerShape


class DenseLayer(nnx.Module):
    """h + FFN(RMS(h)): a feed-forward layer without experts."""

    def __init__(self, config: ModelConfig, exchange: Exchange, *, rngs: nnx.Rngs):
        self.norm = RMSNorm(config.d_model, config.rms_norm_eps)
        self.feed_forward = FeedForward(
            config.d_model, config.d_ff, config.activation, config.init_std, rngs=rngs
        )

    def __call__(
        self, h: Float[Array, "tokens d_model"], context: RouterContext
    ) -> tuple[Float[Array, "tokens d_model"], None]:
        """Return the residual stream behind the layer; there is no routing to report."""
        return h + self.feed_forward(self.norm(h)), None


def sublayer_shape(config: ModelConfig) -> SubLayerShape:
    """Return the shape of the MoE sub-layers that the config describes."""
    moe = config.moe
    return SubLayerShape(
        d_model=config.d_model,
        num_experts=moe.num_experts,
        top_k=moe.top_k,
        d_expert=moe.d_expert,
        activation=config.activation,
        shared_expert=moe.shared_expert,
        shared_feed_forwards=moe.shared_feed_forwards,
        init_std=config.init_std,
        backend=moe.backend,
        router=moe.router,
        top_p=moe.top_p,
        table_rows=config.vocab_size if moe.table_per_sublayer else 0,
    )


def cartesian_layer(
    config: ModelConfig, exchange: Exchange, *, rngs: nnx.Rngs
) -> CartesianProductLayer:
    """Build the Cartesian Product Layer that the config describes."""
    return CartesianProductLayer(
        sublayer_shape(config),
        config.moe.sublayers,
        without_shared_expert=config.moe.without_shared_expert(),
        rms_norm_eps=config.rms_norm_eps,
        exchange=exchange,
        rngs=rngs,
    )


FEED_FORWARDS = {"dense": DenseLayer, "cartesian": cartesian_layer}
"""What may follow attention in a layer, by the names that models/depth.py uses."""


class Block(nnx.Module):
    """h += Attention(RMS(h)), then the feed-forward layer."""

    def __init__(self, kind: str, config: ModelConfig, exchange: Exchange, *, rngs: nnx.Rngs):
        self.norm = RMSNorm(config.d_model, config.rms_norm_eps)
        self.attention = Attention(
            config.d_model, config.num_heads, config.rope_base, config.init_std, rngs=rngs
        )
        self.feed_forward = FEED_FORWARDS[kind](config, exchange, rngs=rngs)

    def __call__(
        self, h: Float[Array, "batch seq d_model"], context: RouterContext
    ) -> tuple[Float[Array, "batch seq d_model"], RoutingStats | None]:
        """Return the residual stream behind the layer, and the routing statistics of MoE layers."""
        h = h + self.attention(self.norm(h))
        rows, stats = self.feed_forward(h.reshape(-1, h.shape[-1]), context)
        return jnp.reshape(rows, h.shape), stats
