"""How finished rows leave a Hopper GPU's shared memory."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float, Int

from cartesian_moe_jax.kernels.hopper_call import Ref, swizzled

TURNS = 2
"""Places that blocks leave from in turns: one is filled while the other is read."""

in_one_place = plgpu.RefUnion
"""Arrays in the same memory. A group's part of one is its part of the other."""


class Stores(NamedTuple):
    """Where finished blocks lie until they are read. Turns must come one after the other."""

    whole: Ref
    """(TURNS, height, width), as threads write it fastest."""
    rows: Ref
    """The same memory, row after row, so that copies may begin at any."""

    @staticmethod
    def allocation(height: int, width: int, dtype: jnp.dtype) -> Any:
        """What `pl.run_scoped` makes them of, for `Stores(*it)`."""
        size = TURNS, height, width
        whole = plgpu.SMEM(size, dtype, transforms=swizzled(width, dtype))
        return in_one_place(whole, plgpu.SMEM(size, dtype))

    def begin(self, count: int) -> None:
        """Before turn 0, if it may follow any multiple of `count` turns that began with 0."""
        if count % TURNS:
            # The last one may have had the same place.
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)

    def store(self, turn: int, own: Any, block: Float[Array, "height width"], window: Ref) -> None:
        """Begin to copy a block to where it belongs; `own` are the rows of the group's threads."""
        plgpu.wait_smem_to_gmem(TURNS - 1, wait_read_only=True)
        self.whole[turn % TURNS, own] = block.astype(self.whole.dtype)
        plgpu.commit_smem()
        plgpu.copy_smem_to_gmem(self.whole.at[turn % TURNS, own], window)

    def store_rows(
        self,
        turn: int,
        own: Any,
        block: Float[Array, "height width"],
        window: Ref,
        first: Any,
        row: Any,
        count: Int[Array, ""],
    ) -> None:
        """Begin to copy `count` rows of a block from `first` on, to a window's from `row`."""
        plgpu.wait_smem_to_gmem(TURNS - 1, wait_read_only=True)
        self.rows[turn % TURNS, own] = block.astype(self.rows.dtype)
        plgpu.commit_smem()
        _copy_rows(self.rows.at[turn % TURNS], own.start + first, window, row, count, own.size)
        plgpu.commit_smem_to_gmem_group()


def _copy_rows(
    block: Ref, first: Any, result: Ref, row: Any, count: Int[Array, ""], most: int
) -> None:
    """Copies have fixed sizes, so rows go in powers of two: those that `count` is the sum of."""
    size = most
    while size:

        @pl.when((count & size) != 0)
        def _copy(size: int = size, first: Any = first, row: Any = row) -> None:
            window = result.at[pl.ds(row, size)]
            plgpu.copy_smem_to_gmem(block.at[pl.ds(first, size)], window, commit_group=False)

        first, row, size = first + (count & size), row + (count & size), size // 2
