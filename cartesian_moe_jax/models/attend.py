"""Causal attention over the mesh in force."""

import math

import jax
from jax.sharding import AbstractMesh, Mesh, PartitionSpec
from jaxtyping import Array, Float

from cartesian_moe_jax.kernels import best_causal_attention
from cartesian_moe_jax.parallel.axes import BATCH_AXES, TENSOR
from cartesian_moe_jax.parallel.mesh import current_mesh


def attend(
    query: Float[Array, "batch seq heads d_head"],
    key: Float[Array, "batch seq heads d_head"],
    value: Float[Array, "batch seq heads d_head"],
) -> Float[Array, "batch seq heads d_head"]:
    """Return what each position reads, by the best kernel where the program will run."""
    kernel = best_causal_attention(query.dtype, query.shape[-1])
    if kernel.partitions:
        return kernel.run(query, key, value)
    mesh = current_mesh()
    spec = attention_spec(mesh, query.shape[0], query.shape[2])
    # The kernels do not say over which axes their results vary. They vary over those of `spec`.
    run = jax.shard_map(
        kernel.run, mesh=mesh, in_specs=(spec, spec, spec), out_specs=spec, check_vma=False
    )
    return run(query, key, value)


def attention_spec(mesh: Mesh | AbstractMesh, batch: int, heads: int) -> PartitionSpec:
    """Split sequences and heads over the mesh axes meant for them, as far as these divide them.

    Devices along the other axes do the same work.
    """
    axes: list[str] = []
    for axis in BATCH_AXES:
        if batch % math.prod(mesh.shape[a] for a in (*axes, axis)) == 0:
            axes.append(axis)
    return PartitionSpec(tuple(axes), None, None if heads % mesh.shape[TENSOR] else TENSOR)
