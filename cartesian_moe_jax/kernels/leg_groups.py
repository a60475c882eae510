"""How a leg's rows may be divided among experts: what its kernels are tried on."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from cartesian_moe_jax.kernels.blocks import LegShape
from cartesian_moe_jax.kernels.composed import is_live
from cartesian_moe_jax.kernels.leg_trials import Operands, group_sizes


def kinds_of_groups(shape: LegShape) -> Mapping[str, Int[Array, "experts"]]:
    """Group sizes by name; in all but the first, some rows belong to no group."""
    hot = np.arange(shape.experts, dtype=np.int32) % 4
    hot[shape.experts // 2] = shape.rows - hot.sum() - 7
    return {
        "unaligned": group_sizes(shape),
        "single rows, empty": sparse_groups(shape),
        "one hot": jnp.asarray(hot),
    }


def sparse_groups(shape: LegShape) -> Int[Array, "experts"]:
    """Every third expert has one row, one of them half of all, most have none."""
    sizes = np.zeros(shape.experts, np.int32)
    sizes[::3][: shape.rows // 4] = 1
    sizes[1 % shape.experts] = shape.rows // 2 + 1
    return jnp.asarray(sizes)


def with_groups(shape: LegShape, arguments: Operands, counts: Int[Array, "experts"]) -> Operands:
    """The operands with other groups, and NaN in every row that belongs to none."""
    live = is_live(shape.rows, counts)
    by_row = (0, 1) if shape.leg == "to_weights" else (0, 3)

    def spoiled(operand: Any) -> Any:
        return jax.tree.map(lambda array: jnp.where(live, array, jnp.nan), operand)

    spoilt = tuple(spoiled(a) if i in by_row else a for i, a in enumerate(arguments))
    return (*spoilt[:2], counts, *spoilt[3:])
