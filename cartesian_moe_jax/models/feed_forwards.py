"""What may follow attention in a layer, by name: dense, stacked, or mixture-of-experts."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from flax import nnx
from jaxtyping import Array, Float

from cartesian_moe_jax.config import ModelConfig
from cartesian_moe_jax.layers.feed_forward import FeedForward
from cartesian_moe_jax.layers.rms_norm import RMSNorm
from cartesian_moe_jax.models.depth import layer_kinds
from cartesian_moe_jax.moe.cartesian import CartesianProductLayer
from cartesian_moe_jax.moe.routing import RouterContext
from cartesian_moe_jax.moe.shape import SubLayerShape
from cartesian_moe_jax.parallel.layouts import Layout
from cartesian_moe_jax.parallel.mesh import over_batch


class DenseLayer(nnx.Module):
    """h + FFN(RMS(h)): a feed-forward layer without experts."""

    def __init__(self, config: ModelConfig, layout: Layout, *, rngs: nnx.Rngs):
        self.norm = RMSNorm(config.d_model, config.rms_norm_eps)
        self.feed_forward = FeedForward(
            config.d_model, config.d_ff, config.activation, config.init_std, rngs=rngs
        )

    def __call__(
        self, h: Float[Array, "tokens d_model"], context: RouterContext
    ) -> tuple[Float[Array, "tokens d_model"], None]:
        """Return the residual stream behind the layer; there is no routing to report."""
        return h + self.feed_forward(over_batch(self.norm(h))), None


class StackedLayer(nnx.Module):
    """A Cartesian Product Layer whose sub-layers are plain feed-forwards: a control."""

    def __init__(self, config: ModelConfig, layout: Layout, *, rngs: nnx.Rngs):
        c, sublayers = config, range(config.moe.sublayers)
        self.norms = nnx.List([RMSNorm(c.d_model, c.rms_norm_eps) for _ in sublayers])
        self.feed_forwards = nnx.List(
            [
                FeedForward(c.d_model, c.moe.d_expert, c.activation, c.init_std, rngs=rngs)
                for _ in sublayers
            ]
        )

    def __call__(
        self, h: Float[Array, "tokens d_model"], context: RouterContext
    ) -> tuple[Float[Array, "tokens d_model"], None]:
        """Return the residual stream behind the layer; there is no routing to report."""
        for feed_forward, norm in zip(self.feed_forwards, self.norms, strict=True):
            h = h + feed_forward(over_batch(norm(h)))
        return h, None


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
    config: ModelConfig, layout: Layout, *, rngs: nnx.Rngs
) -> CartesianProductLayer:
    """Build the Cartesian Product Layer that the config describes."""
    return CartesianProductLayer(
        sublayer_shape(config),
        config.moe.sublayers,
        without_shared_expert=config.moe.without_shared_expert(),
        rms_norm_eps=config.rms_norm_eps,
        layout=layout,
        rngs=rngs,
    )


class Kind(NamedTuple):
    """A kind of feed-forward layer: how it is built, and whether it routes tokens to experts."""

    build: Callable[..., nnx.Module]
    routed: bool


FEED_FORWARDS: Mapping[str, Kind] = {
    "dense": Kind(DenseLayer, routed=False),
    "stacked": Kind(StackedLayer, routed=False),
    "cartesian": Kind(cartesian_layer, routed=True),
}
"""By the names that models/depth.py uses."""

IN_PLACE_OF_DENSE = {name: kind for name, kind in FEED_FORWARDS.items() if name != "dense"}
"""Those that ``config.model.moe.layer`` may name."""


def moe_layers(config: ModelConfig) -> list[int]:
    """List the depths of the layers that route tokens to experts."""
    kinds = layer_kinds(config.num_layers, config.moe)
    return [i for i, kind in enumerate(kinds) if FEED_FORWARDS[kind].routed]
