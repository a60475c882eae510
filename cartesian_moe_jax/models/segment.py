"""A stack of equal patterns of layers, scanned so that compile time hardly grows with depth."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from cartesian_moe_jax.config import ModelConfig
from cartesian_moe_jax.kernels import is_attention_residual
from cartesian_moe_jax.models.block import Block
from cartesian_moe_jax.models.depth import SegmentShape
from cartesian_moe_jax.models.feed_forwards import FEED_FORWARDS
from cartesian_moe_jax.models.in_use import gathers, in_use
from cartesian_moe_jax.models.kv_cache import KeyValues, Past
from cartesian_moe_jax.moe.routing import RouterContext, RoutingStats
from cartesian_moe_jax.parallel.gathering import GATHERED
from cartesian_moe_jax.parallel.layouts import Layout
from cartesian_moe_jax.parallel.mesh import over_batch


def keep_everything(body: Callable) -> Callable:
    """Return the body as it is."""
    return body


REMAT: Mapping[str, Callable[[Callable], Callable]] = {
    "none": keep_everything,
    "dots": lambda body: jax.checkpoint(
        body, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    ),
    "attention": lambda body: jax.checkpoint(body, policy=is_attention_residual),
    "full": jax.checkpoint,
}
"""What the backward pass of one repetition recomputes, by name."""

_GATHER_AGAIN = jax.checkpoint_policies.save_anything_except_these_names(GATHERED)


def remat_of(name: str, layout: Layout) -> Callable[[Callable], Callable]:
    """Return what ``name`` stands for; weights that are gathered for a layer are never kept."""
    chosen = REMAT[name]
    if chosen is keep_everything and gathers(layout):
        return functools.partial(jax.checkpoint, policy=_GATHER_AGAIN)
    return chosen


class Segment(nnx.Module):
    """``shape.repeats`` repetitions of ``shape.pattern``; parameters stacked on a first axis."""

    def __init__(self, shape: SegmentShape, config: ModelConfig, layout: Layout, *, rngs: nnx.Rngs):
        def stacked(kind: str) -> Block:
            keys = jax.random.split(rngs.params(), shape.repeats)
            return jax.vmap(lambda k: Block(kind, config, layout, rngs=nnx.Rngs(params=k)))(keys)

        self.blocks = nnx.List([stacked(kind) for kind in shape.pattern])
        self.remat, self.repeats, self.layout = config.remat, shape.repeats, layout
        self.routed = tuple(FEED_FORWARDS[kind].routed for kind in shape.pattern)

    def __call__(
        self, h: Float[Array, "batch seq d_model"], context: RouterContext
    ) -> tuple[Float[Array, "batch seq d_model"], RoutingStats | None]:
        """Run the layers in order; statistics come stacked [moe_layers, sublayers, ...].

        All layers read the same context, which is no part of the stack, but for interventions:
        those come stacked [moe_layers, sublayers, ...].
        """
        h, stats, _ = self._run(h, context)
        return h, stats

    def extend(
        self,
        h: Float[Array, "batch new d_model"],
        context: RouterContext,
        past: tuple[Past, ...] | None,
    ) -> tuple[Float[Array, "batch new d_model"], tuple[KeyValues, ...]]:
        """Run the layers on positions behind the past, and return what these add to it.

        Both are of each layer of the pattern, stacked [repeats, ...]. None: there is no past.
        """
        h, _, own = self._run(h, context, past, keep=True)
        return h, own

    def _run(
        self,
        h: Float[Array, "batch seq d_model"],
        context: RouterContext,
        past: tuple[Past, ...] | None = None,
        keep: bool = False,
    ) -> tuple[Float[Array, "batch seq d_model"], RoutingStats | None, tuple[KeyValues, ...]]:
        shape = (self.repeats, sum(self.routed))
        stacked = jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), context.intervention)
        same = dataclasses.replace(context, intervention=None)

        def repetition(h: Float[Array, "batch seq d_model"], layers: Any) -> tuple[Any, Any]:
            blocks, interventions, pasts = layers
            h = over_batch(h)
            all_stats: list[RoutingStats] = []
            all_own: list[KeyValues] = []
            for block, routed, past in zip(blocks, self.routed, pasts, strict=True):
                # The routed layers so far are as many as have reported.
                intervention = _at(interventions, len(all_stats)) if routed else None
                block = in_use(block, self.layout, h.dtype)
                own_context = dataclasses.replace(same, intervention=intervention)
                h, stats, own = block(h, own_context, past)
                all_stats += [] if stats is None else [stats]
                all_own += [own.over_mesh()] if keep else []
            joined = jax.tree.map(lambda *s: jnp.stack(s), *all_stats) if all_stats else None
            return h, (joined, tuple(all_own))

        body = remat_of(self.remat, self.layout)(repetition)
        pasts = past or (None,) * len(self.routed)
        h, (stats, own) = jax.lax.scan(body, h, (list(self.blocks), stacked, pasts))
        return h, jax.tree.map(lambda s: s.reshape(-1, *s.shape[2:]), stats), own


def _at(stacked: Any, index: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], stacked)
