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
from cartesian_moe_jax.models.in_use import ROUTED_EXPERTS, gathers, in_use
from cartesian_moe_jax.models.kv_cache import KeyValues, Past
from cartesian_moe_jax.models.parameters import named_parameters, with_parameters
from cartesian_moe_jax.moe.routing import RouterContext, RoutingStats
from cartesian_moe_jax.parallel.gathering import GATHERED
from cartesian_moe_jax.parallel.layouts import Layout
from cartesian_moe_jax.parallel.mesh import current_mesh, over_batch

Parameters = dict[str, Float[Array, "..."]]


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
        self.unroll = min(config.unroll or shape.repeats, shape.repeats)
        self.routed = tuple(FEED_FORWARDS[kind].routed for kind in shape.pattern)

    def __call__(
        self, h: Float[Array, "batch seq d_model"], context: RouterContext
    ) -> tuple[Float[Array, "batch seq d_model"], RoutingStats | None]:
        """Run the layers in order; statistics come stacked [moe_layers, sublayers, ...].

        All layers read the same context, which is no part of the stack, but for interventions:
        those come stacked [moe_layers, sublayers, ...].
        """
        shape = (self.repeats, sum(self.routed))
        stacked = jax.tree.map(lambda x: x.reshape(*shape, *x.shape[1:]), context.intervention)
        same = dataclasses.replace(context, intervention=None)

        def repetition(h: Float[Array, "batch seq d_model"], blocks_and_interventions: Any):
            blocks, interventions = blocks_and_interventions
            h = over_batch(h)
            all_stats: list[RoutingStats] = []
            for block, routed in zip(blocks, self.routed, strict=True):
                # The routed layers so far are as many as have reported.
                own = _at(interventions, len(all_stats)) if routed else None
                block = in_use(block, self.layout, h.dtype)
                h, stats, _ = block(h, dataclasses.replace(same, intervention=own))
                all_stats += [] if stats is None else [stats]
            return h, jax.tree.map(lambda *s: jnp.stack(s), *all_stats) if all_stats else None

        body = remat_of(self.remat, self.layout)(repetition)
        layers = list(self.blocks), stacked
        h, stats = jax.lax.scan(body, h, layers, unroll=self.unroll)
        return h, jax.tree.map(lambda s: s.reshape(-1, *s.shape[2:]), stats)

    def extend(
        self,
        h: Float[Array, "batch new d_model"],
        context: RouterContext,
        past: tuple[Past, ...] | None,
    ) -> tuple[Float[Array, "batch new d_model"], tuple[KeyValues, ...]]:
        """Run the layers on positions behind the past, and return what these add to it.

        Both are of each layer of the pattern, stacked [repeats, ...]. None: there is no past.
        """
        parameters = [named_parameters(block) for block in self.blocks]
        read_whole = [_in_place(own, h.dtype) for own in parameters]
        sliced = [_without(own, whole) for own, whole in zip(parameters, read_whole, strict=True)]

        def repetition(h: Float[Array, "batch new d_model"], layers: Any) -> tuple[Any, Any]:
            index, all_sliced, pasts = layers
            h = over_batch(h)
            all_own: list[KeyValues] = []
            each = zip(self.blocks, all_sliced, read_whole, pasts, strict=True)
            for stacked, parts, whole, past in each:
                block = in_use(with_parameters(stacked, parts | whole), self.layout, h.dtype)
                which = index if whole else None
                h, _, own = block(h, dataclasses.replace(context, repetition=which), past)
                all_own.append(own.over_mesh())
            return h, tuple(all_own)

        pasts = past or (None,) * len(self.routed)
        return jax.lax.scan(repetition, h, (jnp.arange(self.repeats), sliced, pasts))


def _in_place(parameters: Parameters, dtype: jnp.dtype) -> Parameters:
    """Choose what is read where it lies: experts, of which few tokens need few.

    A slice for the layer would be a copy of them all. On one device, and where they need no cast.
    """
    alone = current_mesh().size == 1
    return {
        name: value
        for name, value in parameters.items()
        if alone and ROUTED_EXPERTS.search(name) and value.dtype == dtype
    }


def _without(parameters: Parameters, others: Parameters) -> Parameters:
    return {name: value for name, value in parameters.items() if name not in others}


def _at(stacked: Any, index: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], stacked)
