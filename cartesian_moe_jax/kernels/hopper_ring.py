"""Blocks in a Hopper GPU's shared memory that one group copies while two multiply those before.

Every tile is of one team (hopper_teams.py), which `team` names; None where there is one only.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from cartesian_moe_jax.kernels.hopper_call import Ref, swizzled
from cartesian_moe_jax.kernels.hopper_teams import Teams


class Ring(NamedTuple):
    """Places for the blocks of some steps, used in turns for all steps of all tiles."""

    blocks: Sequence[Ref]
    """Each (stages, height, width)."""
    copied: Ref
    """Says for each place when its blocks are there: to each team of those that are its own.

    A barrier's phases are counted by who waits for it, so that none may be left out.
    """
    released: Ref
    """Says for each place when all members of a team have multiplied what is there."""

    @classmethod
    def allocations(
        cls, sizes: Sequence[tuple[int, int]], dtype: jnp.dtype, stages: int, teams: Teams
    ) -> "Ring":
        """What `pl.run_scoped` makes a ring of, for one block of each size at a step."""
        return cls(
            [
                plgpu.SMEM((stages, *size), dtype, transforms=swizzled(size[1], dtype))
                for size in sizes
            ],
            plgpu.Barrier(num_arrivals=len(sizes), num_barriers=teams.count * stages),
            plgpu.Barrier(num_arrivals=teams.members, num_barriers=stages),
        )

    def copy(self, step: Any, windows: Sequence[Ref], team: Any) -> None:
        """Begin to copy the blocks of a step, as soon as there is a place."""
        place, copied = self.place(step), self.copied_at(step, team)

        @pl.when(step >= self.stages)
        def _wait() -> None:
            plgpu.barrier_wait(self.released.at[place])

        for window, block in zip(windows, self.blocks, strict=True):
            plgpu.copy_gmem_to_smem(window, block.at[place], copied)

    def multiply(
        self, first: Any, steps: Any, team: Any, products: int, product: Callable[..., None]
    ) -> None:
        """Run product(step, *blocks), which begins `products` products, for steps from `first` on.

        A place is released when the products of the next step are under way.
        """

        def run(step: Any, _: None) -> None:
            place = self.place(first + step)
            plgpu.barrier_wait(self.copied_at(first + step, team))
            product(step, *[block.at[place] for block in self.blocks])
            plgpu.wgmma_wait(products)

            @pl.when(step > 0)
            def _release() -> None:
                plgpu.barrier_arrive(self.released.at[self.place(first + step - 1)])

        jax.lax.fori_loop(0, steps, run, None)
        plgpu.wgmma_wait(0)

        @pl.when(steps > 0)
        def _release() -> None:
            plgpu.barrier_arrive(self.released.at[self.place(first + steps - 1)])

    def leave(self, first: Any, steps: Any, team: Any) -> None:
        """Release the places of steps, from `first` on, of which this group needs nothing."""

        def run(step: Any, _: None) -> None:
            plgpu.barrier_wait(self.copied_at(first + step, team))
            plgpu.barrier_arrive(self.released.at[self.place(first + step)])

        jax.lax.fori_loop(0, steps, run, None)

    def drain(self, steps: Any) -> None:
        """Wait for all that was copied in so many steps to be multiplied."""
        waited = jnp.maximum(steps - self.stages, 0)

        def wait(step: Any, _: None) -> None:
            plgpu.barrier_wait(self.released.at[self.place(step)])

        jax.lax.fori_loop(waited, steps, wait, None)

    def place(self, step: Any) -> Any:
        """Where the blocks of a step lie."""
        return jax.lax.rem(step, jnp.int32(self.stages))

    def copied_at(self, step: Any, team: Any) -> Ref:
        """What says that the blocks of a step are there."""
        place = self.place(step)
        return self.copied.at[place if team is None else team * self.stages + place]

    @property
    def stages(self) -> int:
        """How many places there are."""
        return self.blocks[0].shape[0]
