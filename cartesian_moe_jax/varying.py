"""Inside ``jax.shard_map``: which mesh axes arrays vary over, and how to make them vary alike."""

from collections.abc import Collection
from typing import TypeVar

import jax
from jaxtyping import Array, Shaped

Tree = TypeVar("Tree")


def vary_alike(tree: Tree) -> Tree:
    """Make all arrays of a pytree vary over the mesh axes that any of them varies over.

    A custom gradient must vary as its argument does; casting first leaves the sum over devices of
    an argument that they share to the gradient of the cast.
    """
    axes = frozenset[str]().union(*map(varying_axes, jax.tree.leaves(tree)))
    return jax.tree.map(lambda array: vary(array, sorted(axes)), tree)


def vary(array: Shaped[Array, "..."], axes: Collection[str]) -> Shaped[Array, "..."]:
    """Let an array count as one that differs between the devices along ``axes``."""
    missing = tuple(axis for axis in axes if axis not in varying_axes(array))
    return jax.lax.pcast(array, missing, to="varying") if missing else array


def varying_axes(array: Shaped[Array, "..."]) -> frozenset[str]:
    """Return the mesh axes that an array varies over."""
    return jax.typeof(array).manual_axis_type.varying
