"""Which tiles of rows a kernel visits for which experts, in the order of the rows."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Int


class RowVisits(NamedTuple):
    """A visit computes one expert's rows in one tile; neighbours share the tile between them.

    Tiles are `height` rows each, from the first row on. There are as many visits as there can ever
    be; how many are needed, at least one, comes beside. Those behind repeat the last one.
    """

    expert: Int[Array, "visits"]
    tile: Int[Array, "visits"]
    read: Int[Array, "visits"]
    """The tile, or if it has no expert the last that has one: nothing is read for it."""
    start: Int[Array, "visits"]
    """The expert's first row, maybe long before the tile."""
    end: Int[Array, "visits"]
    """Where its rows end; `start` if the visit is to no row of anyone."""

    @classmethod
    def by_tile(
        cls, group_sizes: Int[Array, "experts"], rows: int, height: int, every_tile: bool
    ) -> tuple["RowVisits", Int[Array, ""]]:
        """To each tile for each expert with rows in it; if `every_tile`, to the others too."""
        starts, ends = bounds(group_sizes)
        each = jnp.where(starts < ends, (ends - 1) // height - starts // height + 1, 0)
        live, tiles = ends[-1], -(-rows // height)
        reached = -(-live // height)
        behind = tiles - reached if every_tile else 0
        visit, last = _numbered(each, tiles), jnp.sum(each)
        of_live = jnp.minimum(visit, jnp.maximum(last - 1, 0))
        expert, first = owner(each, of_live)
        read = starts[expert] // height + of_live - first
        # Tiles of no expert follow; their expert is the last one, whose weights are at hand.
        free = visit >= last
        tile = jnp.where(free, jnp.minimum(reached + visit - last, tiles - 1), read)
        end = jnp.where(free, starts[expert], ends[expert])
        visits = cls(expert, tile, read, starts[expert], end)
        return visits, jnp.maximum(last + behind, 1)

    @classmethod
    def by_expert(
        cls, group_sizes: Int[Array, "experts"], rows: int, height: int
    ) -> tuple["RowVisits", Int[Array, ""]]:
        """For each expert, to each tile with rows of it; if there is none, to one all the same."""
        starts, ends = bounds(group_sizes)
        tiles = -(-rows // height)
        each = jnp.where(starts < ends, (ends - 1) // height - starts // height + 1, 1)
        count = jnp.sum(each)
        visit = jnp.minimum(_numbered(each, tiles), count - 1)
        expert, first = owner(each, visit)
        tile = jnp.minimum(starts[expert] // height + visit - first, tiles - 1)
        return cls(expert, tile, tile, starts[expert], ends[expert]), count


def bounds(
    group_sizes: Int[Array, "experts"],
) -> tuple[Int[Array, "experts"], Int[Array, "experts"]]:
    """Where each expert's rows begin and end."""
    sizes = group_sizes.astype(jnp.int32)
    ends = jnp.cumsum(sizes)
    return ends - sizes, ends


def _numbered(each: Int[Array, "experts"], tiles: int) -> Int[Array, "visits"]:
    """Every expert but the first can begin within a tile, which is then visited once more."""
    return jnp.arange(tiles + each.shape[0], dtype=jnp.int32)


def owner(
    each: Int[Array, "experts"], visit: Int[Array, "visits"]
) -> tuple[Int[Array, "visits"], Int[Array, "visits"]]:
    """The expert of a visit, and that expert's first visit."""
    last = jnp.cumsum(each)
    expert = jnp.sum(visit[:, None] >= last, axis=1, dtype=jnp.int32)
    expert = jnp.minimum(expert, each.shape[0] - 1)
    return expert, (last - each)[expert]
