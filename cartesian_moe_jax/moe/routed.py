"""Choice, dispatch, experts and combine: the token-by-token part of a sub-layer."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Num

from cartesian_moe_jax.kernels import FeedForwardWeights
from cartesian_moe_jax.moe.balance import count_choices
from cartesian_moe_jax.moe.dispatch import exchange_of
from cartesian_moe_jax.moe.expert_weights import here_whole, weight_specs
from cartesian_moe_jax.moe.experts import FeedForwardExperts
from cartesian_moe_jax.moe.intervention import swapped
from cartesian_moe_jax.moe.routing import Routing, Scores
from cartesian_moe_jax.parallel.axes import AXES, BATCH_AXES, TENSOR
from cartesian_moe_jax.parallel.layouts import Layout
from cartesian_moe_jax.parallel.mesh import mesh_for
from cartesian_moe_jax.varying import vary


class Routed(NamedTuple):
    """What the routed experts made of their tokens, and what is told of the choice."""

    update: Float[Array, "tokens d_model"]
    """Each token's weighted sum over its experts."""
    load: Float[Array, "experts"]
    """Mean choices per token."""
    dropped: Float[Array, ""]
    """Share of the chosen pairs that no expert computed."""
    choices: Bool[Array, "tokens experts"] | None
    """Which experts each token uses, where that is asked for."""


def run_routed_experts(
    x: Float[Array, "tokens d_model"],
    scores: Scores,
    choose: Callable[[Scores], Routing],
    experts: FeedForwardExperts,
    layout: Layout,
    *,
    train: bool = False,
    keep_choices: bool = False,
    repetition: Int[Array, ""] | None = None,
) -> Routed:
    """Route every token to its experts.

    Runs inside one ``shard_map`` over the mesh in force, on one device too: every device chooses
    for its own tokens, and the layout's exchange decides which rows its experts see. In training
    (``train``) it may drop what overflows. ``repetition``: see ``FeedForwardExperts.run``.
    """
    total_tokens, num_experts = x.shape[0], experts.num_experts
    mesh, exchange = mesh_for(total_tokens), exchange_of(layout)
    if exchange.axis and mesh.shape[exchange.axis] == 1:
        exchange = exchange_of(Layout({}))
    specs = weight_specs(experts.weights(), layout, mesh)
    batch_axes = _batch_axes(mesh)
    kept = {("experts", exchange.axis), ("d_expert", TENSOR)}
    split = tuple(a for a in layout.splits("d_expert") if a == TENSOR and mesh.shape[a] > 1)

    def on_each_device(
        x: Float[Array, "local_tokens d_model"],
        scores: Scores,
        weights: FeedForwardWeights,
        repetition: Int[Array, ""] | None,
    ) -> Routed:
        with jax.named_scope("router"):
            routing = choose(scores)
            if scores.swap is not None:
                routing = swapped(routing, scores.swap)
            chosen = count_choices(routing.expert_ids, num_experts)
            choices = _choices(routing.expert_ids, num_experts) if keep_choices else None
        with jax.named_scope("dispatch"):
            # Devices that split hidden widths share their tokens, and each adds its part.
            x, routing = jax.tree.map(lambda a: vary(a, split), (x, routing))
            rows, group_sizes, plan = exchange.dispatch(x, routing, num_experts, bounded=train)
        with jax.named_scope("experts"):
            weights = here_whole(weights, specs, kept, mesh, x.dtype)
            rows = experts.run(rows, group_sizes, weights, repetition)
        with jax.named_scope("combine"):
            update = exchange.combine(rows, plan)
            update = jax.lax.psum(update, split) if split else update
        chosen, dropped = _of_all_devices(chosen, plan.dropped, batch_axes, split)
        share = dropped / jnp.maximum(jnp.sum(chosen), 1)
        return Routed(update, chosen / total_tokens, share, choices)

    batch = PartitionSpec(batch_axes)
    run = jax.shard_map(
        on_each_device,
        mesh=mesh,
        in_specs=(batch, batch, specs, PartitionSpec()),
        out_specs=Routed(batch, PartitionSpec(), PartitionSpec(), batch),
    )
    return run(x, scores, experts.weights(), repetition)


def _batch_axes(mesh: Mesh | AbstractMesh) -> tuple[str, ...]:
    """Return the axes that the batch is split over, and those of one device, along with them.

    The latter moves nothing. But over axes that do not split the weights their gradients are
    summed, and XLA:CPU copies them all even where one device has nothing to sum; and an axis that
    splits the weights must split the tokens, or a sum over it be taken.
    """
    return tuple(axis for axis in AXES if axis in BATCH_AXES or mesh.shape[axis] == 1)


def _of_all_devices(
    chosen: Float[Array, "experts"],
    dropped: Num[Array, ""],
    batch_axes: tuple[str, ...],
    split: tuple[str, ...],
) -> tuple[Float[Array, "experts"], Float[Array, ""]]:
    """Sum what devices with other tokens have counted; those along ``split`` have the same."""
    counts = (chosen, vary(dropped.astype(jnp.float32), batch_axes))
    chosen, dropped = jax.lax.psum(counts, batch_axes)
    return chosen, jax.lax.pmean(dropped, split) if split else dropped


def _choices(
    expert_ids: Int[Array, "tokens slots"], num_experts: int
) -> Bool[Array, "tokens experts"]:
    """Say of each expert whether one of the token's slots is its; unused slots are nobody's."""
    return jnp.any(expert_ids[:, :, None] == jnp.arange(num_experts), axis=1)
