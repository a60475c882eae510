"""One MoE sub-layer: router, routed sub-experts, shared expert."""

import jax
from flax import nnx
from jaxtyping import Array, Float

from cartesian_moe_jax.moe.balance import routing_stats
from cartesian_moe_jax.moe.experts import FeedForwardExperts
from cartesian_moe_jax.moe.intervention import intervene
from cartesian_moe_jax.moe.routed import run_routed_experts
from cartesian_moe_jax.moe.routers import router_named
from cartesian_moe_jax.moe.routing import RouterContext, RoutingStats
from cartesian_moe_jax.moe.shape import SubLayerShape
from cartesian_moe_jax.moe.shared_expert import SharedExpert
from cartesian_moe_jax.parallel.layouts import LAYOUTS, Layout
from cartesian_moe_jax.parallel.mesh import over_batch


class MoESubLayer(nnx.Module):
    """Conventional mixture of experts with an optional shared expert (paper section 3.1)."""

    def __init__(self, shape: SubLayerShape, *, layout: Layout = LAYOUTS["data"], rngs: nnx.Rngs):
        s = shape
        self.router = router_named(s.router)(s, rngs=rngs)
        self.experts = FeedForwardExperts(
            s.num_experts, s.d_model, s.d_expert, s.activation, s.backend, s.init_std, rngs=rngs
        )
        self.shared_expert = SharedExpert(s, rngs=rngs) if s.shared_expert else None
        self.layout = layout

    def __call__(
        self, x: Float[Array, "tokens d_model"], context: RouterContext
    ) -> tuple[Float[Array, "tokens d_model"], RoutingStats]:
        """Return the update that the residual stream receives, and the routing statistics."""
        x = over_batch(x)
        with jax.named_scope("router"):
            scores = self.router.scores(x, context)
            if context.intervention is not None:
                scores = intervene(scores, context.intervention)
        routed = run_routed_experts(
            x,
            scores,
            self.router.choose,
            self.experts,
            self.layout,
            train=context.train,
            keep_choices=context.keep_choices,
            repetition=context.repetition,
        )
        update = routed.update
        if self.shared_expert is not None:
            update = self.shared_expert.mix(x, update)
        with jax.named_scope("router"):
            stats = routing_stats(scores, routed.load, routed.dropped)
        return update, stats._replace(choices=routed.choices)
