"""Teams: which groups of warps multiply which tiles of a Hopper kernel, and which part of each."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from cartesian_moe_jax.kernels.hopper_call import GROUP_AXIS, GROUPS


class Teams(NamedTuple):
    """The groups that multiply, in teams of one size, which take turns at the tiles.

    A team's members have each a half of its tiles. In teams of one, a group has both halves, and
    the tensor cores work for one group while the other finishes and stores.
    """

    members: int

    @property
    def count(self) -> int:
        """How many teams there are, and how many halves of a tile a group has."""
        return GROUPS // self.members

    def at(self, turn: Any) -> Any:
        """The team that has the tile of a turn; None where there is one team only."""
        return None if self.count == 1 else jax.lax.rem(turn, jnp.int32(self.count))

    def if_ours(self, team: Any, run: Callable[[], None]) -> None:
        """Run what is to be done with a tile of a team, if this group is its member."""
        if team is None:
            run()
        else:
            # Of a team with one member only, whose number is the group's.
            pl.when(team == jax.lax.axis_index(GROUP_AXIS))(run)

    def half(self, own: Any, index: int) -> Any:
        """One of a group's halves of a tile: `own`, by its number, where that is the only one."""
        return own if self.count == 1 else pl.ds(index * own.size, own.size)


TOGETHER, IN_TURNS = Teams(GROUPS), Teams(1)


def own_half(size: int) -> Any:
    """This group's half of `size` rows, and of memory for as many."""
    half = size // GROUPS
    return pl.ds(jax.lax.axis_index(GROUP_AXIS) * half, half)
