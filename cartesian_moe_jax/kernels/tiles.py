"""Tiles: the pieces of static height into which the rows of each expert are cut."""

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Carry = TypeVar("Carry")

_FRACTIONS = (0.25, 0.5, 0.75, 1.0, 1.125, 1.25)
_STEP = 16
_LARGEST_MEAN = 512


def tile_heights(rows: int, experts: int) -> tuple[int, ...]:
    """The ladder of tile heights for groups of rows / experts rows on average.

    A group of at most the last height is one tile of the lowest height that holds it: a tile
    costs its whole height, but one tall tile is cheaper than several low ones (a matmul packs its
    weights once per tile, and every further tile is added to the weight gradients in a pass of
    its own). So the steps are close where most groups end: at the mean and just above it.
    """
    mean = min(-(-rows // experts), _LARGEST_MEAN)
    ladder = {-(-max(int(mean * f), 1) // _STEP) * _STEP for f in _FRACTIONS}
    return tuple(sorted(height for height in ladder if height <= rows)) or (rows,)


@dataclasses.dataclass(frozen=True)
class Tile:
    """A window of `height` rows that contains the tile; `own` marks the tile's rows in it."""

    window: Int[Array, ""]
    """First row of the window: that of the tile, or less where the rows end."""
    own: Bool[Array, "height 1"]
    opens: bool
    """Whether this is the first tile of its expert."""

    @classmethod
    def at(
        cls, start: Int[Array, ""], end: Int[Array, ""], height: int, rows: int, opens: bool
    ) -> "Tile":
        """The tile that begins at row `start` and ends before row `end` or after `height` rows."""
        window = jnp.minimum(start, rows - height)
        index = window + jnp.arange(height)
        return cls(window, ((index >= start) & (index < end))[:, None], opens)

    def load(self, array: Float[Array, "rows width"]) -> Float[Array, "height width"]:
        """The window of `array`, with zeros in place of the rows that are not the tile's own."""
        return jnp.where(self.own, self._window_of(array), 0)

    def store(
        self, array: Float[Array, "rows width"], values: Float[Array, "height width"]
    ) -> Float[Array, "rows width"]:
        """`array` with the tile's own rows replaced by those of `values`."""
        merged = jnp.where(self.own, values.astype(array.dtype), self._window_of(array))
        return jax.lax.dynamic_update_slice_in_dim(array, merged, self.window, 0)

    def _window_of(self, array: Float[Array, "rows width"]) -> Float[Array, "height width"]:
        return jax.lax.dynamic_slice_in_dim(array, self.window, self.own.shape[0])


@dataclasses.dataclass(frozen=True)
class Tiling:
    """Rows sorted by expert, cut into tiles: per expert one fitted tile, then tall ones."""

    rows: int
    heights: tuple[int, ...]
    starts: Int[Array, "experts"]
    """First row of each expert."""
    sizes: Int[Array, "experts"]
    active: Int[Array, "experts"]
    """The experts that have rows, in order, then those that have none."""

    @classmethod
    def of(cls, group_sizes: Int[Array, "experts"], rows: int) -> "Tiling":
        """The tiling of `rows` rows, of which the first sum(group_sizes) are live."""
        starts = jnp.cumsum(group_sizes) - group_sizes
        heights = tile_heights(rows, group_sizes.shape[0])
        return cls(rows, heights, starts, group_sizes, jnp.argsort(group_sizes == 0))

    def for_each_expert(
        self, body: Callable[[Int[Array, ""], Carry], Carry], carry: Carry
    ) -> Carry:
        """Folds body(expert, carry) over the experts that have rows."""
        n_active = jnp.sum(self.sizes > 0)
        return jax.lax.fori_loop(0, n_active, lambda i, c: body(self.active[i], c), carry)

    def for_each_tile(
        self, expert: Int[Array, ""], body: Callable[[Tile, Carry], Carry], carry: Carry
    ) -> Carry:
        """Folds body(tile, carry) over the tiles of an expert that has rows, in their order."""
        start, size = self.starts[expert], self.sizes[expert]
        n_tall = (size - 1) // self.heights[-1]
        fitted = size - n_tall * self.heights[-1]
        below = 0
        for height in self.heights:
            # A loop of no or one turn: unlike a branch, it surely updates its carry in place.
            turns = ((fitted > below) & (fitted <= height)).astype(int)
            carry = self._fold(start, start + fitted, height, turns, True, body, carry)
            below = height
        start = start + fitted
        end = start + n_tall * self.heights[-1]
        return self._fold(start, end, self.heights[-1], n_tall, False, body, carry)

    def _fold(
        self,
        start: Int[Array, ""],
        end: Int[Array, ""],
        height: int,
        turns: Int[Array, ""],
        opens: bool,
        body: Callable[[Tile, Carry], Carry],
        carry: Carry,
    ) -> Carry:
        def turn(index: Int[Array, ""], carry: Carry) -> Carry:
            # That the tile depends on the index keeps XLA from hoisting the body out of a loop
            # that may have no turn.
            return body(Tile.at(start + index * height, end, height, self.rows, opens), carry)

        return jax.lax.fori_loop(0, turns, turn, carry)
