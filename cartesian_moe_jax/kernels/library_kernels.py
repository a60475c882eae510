"""Calls of Pallas kernels that jax ships, from inside `jax.shard_map`."""

from collections.abc import Callable

import jax

# No public switch turns the check off for a part of a shard_map.
from jax._src.config import _check_vma as _check_varying
from jaxtyping import Array, Num


def call_unchecked(
    kernel: Callable[..., Num[Array, "..."]], *arrays: Num[Array, "..."]
) -> Num[Array, "..."]:
    """kernel(*arrays), varying over every mesh axis that any of `arrays` varies over.

    The kernels that jax ships do not say over which mesh axes their results vary, and
    `jax.shard_map` refuses such ones while it checks. Not to be differentiated: a call inside a
    custom gradient is not.
    """
    varying = frozenset[str]().union(*(jax.typeof(a).manual_axis_type.varying for a in arrays))
    with _check_varying(False):
        result = kernel(*arrays)
    return jax.lax.pcast(result, tuple(sorted(varying)), to="varying") if varying else result
