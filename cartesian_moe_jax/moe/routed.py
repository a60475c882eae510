"""Choice, dispatch, experts and combine: the token-by-token part of a sub-layer."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from cartesian_moe_jax.kernels import FeedForwardWeights
from cartesian_moe_jax.moe.balance import count_choices
from cartesian_moe_jax.moe.dispatch import Exchange
from cartesian_moe_jax.moe.experts import FeedForwardExperts
from cartesian_moe_jax.moe.intervention import swapped
from cartesian_moe_jax.moe.routing import Routing, Scores
from cartesian_moe_jax.parallel.mesh import AXES, BATCH, current_mesh


def run_routed_experts(
    x: Float[Array, "tokens d_model"],
    scores: Scores,
    choose: Callable[[Scores], Routing],
    experts: FeedForwardExperts,
    exchange: Exchange,
    keep_choices: bool = False,
) -> tuple[
    Float[Array, "tokens d_model"],
    Float[Array, "experts"],
    Bool[Array, "tokens experts"] | None,
]:
    """Return each token's weighted sum over its experts, the load, and the choices.

    The load is the mean choices per token; the choices are which experts each token uses, or None
    without ``keep_choices``.

    Runs inside one ``shard_map`` over the mesh in force, on one device too: every device chooses
    for its own tokens, and the exchange decides which rows its experts see.
    """
    total_tokens = x.shape[0]
    mesh = current_mesh()

    def on_each_device(
        x: Float[Array, "local_tokens d_model"], scores: Scores, weights: FeedForwardWeights
    ) -> tuple[
        Float[Array, "local_tokens d_model"],
        Float[Array, "experts"],
        Bool[Array, "local_tokens experts"] | None,
    ]:
        with jax.named_scope("router"):
            routing = choose(scores)
            if scores.swap is not None:
                routing = swapped(routing, scores.swap)
            load = count_choices(routing.expert_ids, experts.num_experts) / total_tokens
            choices = _choices(routing.expert_ids, experts.num_experts) if keep_choices else None
        with jax.named_scope("dispatch"):
            rows, group_sizes, plan = exchange.dispatch(x, routing, experts.num_experts)
        with jax.named_scope("experts"):
            rows = experts.run(rows, group_sizes, weights)
        with jax.named_scope("combine"):
            return exchange.combine(rows, plan), jax.lax.psum(load, AXES), choices

    in_specs = (BATCH, BATCH, expert_spec(mesh, exchange))
    run = jax.shard_map(
        on_each_device, mesh=mesh, in_specs=in_specs, out_specs=(BATCH, PartitionSpec(), BATCH)
    )
    return run(x, scores, experts.weights())


def expert_spec(mesh: Mesh | AbstractMesh, exchange: Exchange) -> PartitionSpec:
    """Split the experts as the exchange says, and over every mesh axis of one device.

    The latter moves nothing. But over axes that do not split the weights their gradients are
    summed, and XLA:CPU copies them all even where one device has nothing to sum.
    """
    return PartitionSpec(
        tuple(axis for axis in AXES if axis in exchange.expert_spec or mesh.shape[axis] == 1)
    )


def _choices(
    expert_ids: Int[Array, "tokens slots"], num_experts: int
) -> Bool[Array, "tokens experts"]:
    """Say of each expert whether one of the token's slots is its; unused slots are nobody's."""
    return jnp.any(expert_ids[:, :, None] == jnp.arange(num_experts), axis=1)
