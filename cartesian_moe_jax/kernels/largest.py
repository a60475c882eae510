"""The few largest of some numbers."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cartesian_moe_jax.platform import target_platform

FEW = 8
"""Numbers that are found one by one sooner than by sorting all."""

Largest = tuple[Float[Array, "rows k"], Int[Array, "rows k"]]


def largest(values: Float[Array, "rows columns"], k: int) -> Largest:
    """Each row's k largest and their columns, falling; of equals the first, as `jax.lax.top_k`."""
    return _BY_PLATFORM.get(target_platform(), _by_jax)(values, k)


def _by_jax(values: Float[Array, "rows columns"], k: int) -> Largest:
    return tuple(jax.lax.top_k(values, k))


def _one_by_one(values: Float[Array, "rows columns"], k: int) -> Largest:
    """XLA sorts whole rows on GPU, for any k."""
    if k > FEW:
        return _by_jax(values, k)
    columns = jnp.arange(values.shape[1])
    left, found = jax.lax.stop_gradient(values), []
    for _ in range(k):
        found.append(jnp.argmax(left, axis=-1))
        left = jnp.where(columns == found[-1][:, None], -jnp.inf, left)
    # Sums over what is zero but at one place: a gather's gradient would be a scatter.
    largest = [jnp.sum(values, axis=-1, where=columns == column[:, None]) for column in found]
    return jnp.stack(largest, axis=-1), jnp.stack(found, axis=-1).astype(jnp.int32)


_BY_PLATFORM: Mapping[str, Callable[[Float[Array, "rows columns"], int], Largest]] = (
    MappingProxyType({"gpu": _one_by_one})
)
