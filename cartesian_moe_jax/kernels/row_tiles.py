"""Which rows of which expert each program of a kernel computes."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int


class RowTiles(NamedTuple):
    """Pieces of at most `height` rows of one expert; there are as many as there can ever be."""

    expert: Int[Array, "tiles"]
    start: Int[Array, "tiles"]
    """The first row."""
    end: Int[Array, "tiles"]
    """Where the expert's rows end, maybe long after the tile; zero if the tile is not needed."""

    @classmethod
    def of(cls, group_sizes: Int[Array, "experts"], rows: int, height: int) -> "RowTiles":
        """The tiles of `rows` rows, of which the first sum(group_sizes) are live."""
        sizes = group_sizes.astype(jnp.int32)
        experts = sizes.shape[0]
        ends, per_expert = jnp.cumsum(sizes), -(-sizes // height)
        last = jnp.cumsum(per_expert)
        tile = jnp.arange(rows // height + min(experts, rows), dtype=jnp.int32)
        expert = jnp.sum(tile[:, None] >= last, axis=1, dtype=jnp.int32)
        needed, expert = expert < experts, jnp.minimum(expert, experts - 1)
        before = last[expert] - per_expert[expert]
        start = ends[expert] - sizes[expert] + (tile - before) * height
        return cls(expert, start, jnp.where(needed, ends[expert], 0))
