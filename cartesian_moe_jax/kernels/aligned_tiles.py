"""Tiles of rows that begin where the copies of Hopper GPUs can: at every eighth row."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int

from cartesian_moe_jax.kernels.row_visits import bounds, owner

ALIGNMENT = 8
"""Rows that are one piece in the shared memory of a GPU."""


class AlignedTiles(NamedTuple):
    """Pieces of `height` rows, of one expert each; there are as many as there can ever be."""

    expert: Int[Array, "tiles"]
    first: Int[Array, "tiles"]
    """The first row, a multiple of ALIGNMENT; maybe of an expert before."""
    start: Int[Array, "tiles"]
    """Where the expert's rows begin, and where they end; both zero if the tile is not needed."""
    end: Int[Array, "tiles"]

    @classmethod
    def of(cls, group_sizes: Int[Array, "experts"], rows: int, height: int) -> "AlignedTiles":
        """The tiles of `rows` rows, of which the first sum(group_sizes) are live."""
        starts, ends = bounds(group_sizes)
        begins, experts = aligned(starts), starts.shape[0]
        each = jnp.where(starts < ends, -(-(ends - begins) // height), 0)
        most = (rows + (ALIGNMENT - 1) * experts) // height + min(experts, rows)
        tile = jnp.arange(most, dtype=jnp.int32)
        expert, before = owner(each, tile)
        first = begins[expert] + (tile - before) * height
        needed = tile < jnp.sum(each)
        return cls(
            expert, *(jnp.where(needed, row, 0) for row in (first, starts[expert], ends[expert]))
        )


def aligned(row: Int[Array, "..."]) -> Int[Array, "..."]:
    """The last row before or at `row` that a copy can begin with."""
    return row // ALIGNMENT * ALIGNMENT
