"""How the stacked weights of experts lie on a mesh, and how they come to where they are used."""

from collections.abc import Collection

import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, PartitionSpec
from jaxtyping import Array, Float

from cartesian_moe_jax.kernels import FeedForwardWeights
from cartesian_moe_jax.parallel.axes import AXES
from cartesian_moe_jax.parallel.gathering import gather_parts
from cartesian_moe_jax.parallel.layouts import Layout, mesh_axes, partition_spec

LOGICAL_AXES = FeedForwardWeights(
    gate=("experts", "expert_d_model", "d_expert"),
    up=("experts", "expert_d_model", "d_expert"),
    down=("experts", "d_expert", "expert_d_model"),
)


def weight_specs(
    weights: FeedForwardWeights, layout: Layout, mesh: Mesh | AbstractMesh
) -> FeedForwardWeights:
    """Return how each weight is split: as the layout says, and over every axis of one device.

    The latter moves nothing, and spares a sum of the gradients over one device.
    """
    pairs = zip(weights, LOGICAL_AXES, strict=True)
    return FeedForwardWeights(
        *(None if w is None else _spec(w, logical, layout, mesh) for w, logical in pairs)
    )


def _spec(
    weight: Float[Array, "experts d_in d_out"],
    logical: tuple[str, ...],
    layout: Layout,
    mesh: Mesh | AbstractMesh,
) -> PartitionSpec:
    spec = partition_spec(layout, mesh, logical, weight.shape, "experts")
    experts, *others = spec
    used = {axis for entry in spec for axis in mesh_axes(entry)}
    alone = tuple(a for a in AXES if mesh.shape[a] == 1 and a not in used)
    return PartitionSpec(mesh_axes(experts) + alone, *others)


def here_whole(
    weights: FeedForwardWeights,
    specs: FeedForwardWeights,
    kept: Collection[tuple[str, str | None]],
    mesh: Mesh | AbstractMesh,
    dtype: jnp.dtype,
) -> FeedForwardWeights:
    """Gather, inside ``shard_map``, what is split over devices that need all of it.

    ``kept``: see ``gather_parts``.
    """
    triples = zip(weights, specs, LOGICAL_AXES, strict=True)
    return FeedForwardWeights(
        *(None if t[0] is None else gather_parts(*t, kept, mesh, dtype) for t in triples)
    )
