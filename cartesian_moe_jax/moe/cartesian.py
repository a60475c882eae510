"""The Cartesian Product Layer (arXiv 2410.16077, section 3.2)."""

import dataclasses
from collections.abc import Collection

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from cartesian_moe_jax.layers.rms_norm import RMSNorm
from cartesian_moe_jax.moe.routing import NO_CONTEXT, RouterContext, RoutingStats, per_sublayer
from cartesian_moe_jax.moe.shape import SubLayerShape
from cartesian_moe_jax.moe.sublayer import MoESubLayer
from cartesian_moe_jax.parallel.layouts import LAYOUTS, Layout


class CartesianProductLayer(nnx.Module):
    """MoE sub-layers in sequence, each pre-normed and residual.

    With two sub-layers a, b of E sub-experts each, a token's path picks one from either set:

        m = h + MoE_a(RMS(h))
        z = m + MoE_b(RMS(m))

    so the layer has E x E composed experts, and every one shares its halves with others.
    """

    def __init__(
        self,
        shape: SubLayerShape,
        num_sublayers: int = 2,
        *,
        without_shared_expert: Collection[int] = (),
        rms_norm_eps: float = 1e-5,
        layout: Layout = LAYOUTS["data"],
        rngs: nnx.Rngs,
    ):
        bare = dataclasses.replace(shape, shared_expert=False)
        shapes = [bare if i in without_shared_expert else shape for i in range(num_sublayers)]
        self.norms = nnx.List([RMSNorm(shape.d_model, rms_norm_eps) for _ in shapes])
        self.sublayers = nnx.List([MoESubLayer(s, layout=layout, rngs=rngs) for s in shapes])

    def __call__(
        self, h: Float[Array, "*batch d_model"], context: RouterContext = NO_CONTEXT
    ) -> tuple[Float[Array, "*batch d_model"], RoutingStats]:
        """Return the residual stream behind the layer, and statistics stacked [sublayers, ...].

        On several devices under ``jax.set_mesh`` of a mesh that ``make_mesh`` made; UserError if
        the tokens do not divide among them.
        """
        batch, h = h.shape, h.reshape(-1, h.shape[-1])
        all_stats = []
        contexts = per_sublayer(context, len(self.sublayers))
        for sublayer, norm, context in zip(self.sublayers, self.norms, contexts, strict=True):
            update, stats = sublayer(norm(h), context)
            h = h + update
            all_stats.append(stats)
        return h.reshape(batch), jax.tree.map(lambda *s: jnp.stack(s), *all_stats)
