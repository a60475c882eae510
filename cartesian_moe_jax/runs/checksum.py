"""A checksum of arrays that does not depend on where they lie, so that any mesh can verify it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped, UInt32

from cartesian_moe_jax.parallel.processes import texts_of_all

MODULUS = 2**32


def checksum(tree: Any) -> int:
    """Return the sum of all bits in words, modulo 2**32; call it in all processes.

    Every damage within one word changes it; that several cancel out is one case in four billion.
    On CPU, and on one, it takes a hundredth of the time that writing or reading takes.
    """
    on_cpu = jax.default_backend() == "cpu"
    sums = [(_sum_on_host if on_cpu else _sum_on_device)(part) for part in _parts(tree)]
    ours = sum(map(int, sums)) % MODULUS
    return sum(map(int, texts_of_all(str(ours)))) % MODULUS


def _parts(tree: Any) -> list[Shaped[Array, "..."]]:
    """List this process's parts of all arrays; of those that several devices hold, one counts."""
    leaves = jax.tree.leaves(tree)
    arrays = (leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf) for leaf in leaves)
    shards = (shard for array in arrays for shard in array.addressable_shards)
    return [shard.data for shard in shards if shard.replica_id == 0]


def _sum_on_host(part: Shaped[Array, "..."]) -> int:
    """Numpy reads the memory of the CPU's arrays in place: nothing is compiled, or copied."""
    return int(np.add.reduce(_words(np.asarray(part)), dtype=np.uint32))


@jax.jit
def _sum_on_device(part: Shaped[Array, "..."]) -> UInt32[Array, ""]:
    return jnp.sum(_words(part), dtype=jnp.uint32)


def _words(part: Any) -> Any:
    return part.reshape(-1).view({1: np.uint8, 2: np.uint16}.get(part.dtype.itemsize, np.uint32))
