"""The language-model loss of a batch that is split over the mesh."""

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from cartesian_moe_jax.models.cross_entropy import mean_token_loss
from cartesian_moe_jax.models.parameters import logical_axes
from cartesian_moe_jax.parallel.axes import BATCH, BATCH_AXES
from cartesian_moe_jax.parallel.gathering import gather_parts
from cartesian_moe_jax.parallel.layouts import Layout, only_batch_axes, partition_spec
from cartesian_moe_jax.parallel.mesh import batch_parts, current_mesh
from cartesian_moe_jax.varying import vary_alike


def mean_loss(
    hidden: Float[Array, "batch seq d_model"],
    head: Float[Array, "d_model vocab"],
    targets: Int[Array, "batch seq"],
    chunk: int,
    layout: Layout,
) -> Float[Array, ""]:
    """Return the mean of -log p(target) in nats over all tokens of all devices.

    Each device adds up the head's gradient over the chunks of its own tokens, and they are summed
    once. Left to itself, the compiler sums over devices for every chunk.
    """
    mesh = current_mesh()
    if batch_parts(mesh) == 1:
        return mean_token_loss(hidden, head, targets, chunk)
    axes = logical_axes("head")
    spec = only_batch_axes(partition_spec(layout, mesh, axes, head.shape, "head"))

    def on_each_device(
        hidden: Float[Array, "local_batch seq d_model"],
        head: Float[Array, "part_of_d_model vocab"],
        targets: Int[Array, "local_batch seq"],
    ) -> Float[Array, ""]:
        whole = gather_parts(head, spec, axes, (), mesh, hidden.dtype)
        hidden, whole, targets = vary_alike((hidden, whole, targets))
        return jax.lax.pmean(mean_token_loss(hidden, whole, targets, chunk), BATCH_AXES)

    # Manual along the batch alone: what else splits the head is left to the compiler.
    run = jax.shard_map(
        on_each_device,
        mesh=mesh,
        in_specs=(BATCH, spec, BATCH),
        out_specs=PartitionSpec(),
        axis_names=set(BATCH_AXES),
    )
    return run(hidden, head, targets)
