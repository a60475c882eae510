"""The checksum of arrays: the same wherever they lie, and another after any damage."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cartesian_moe_jax.runs import checksum as module
from cartesian_moe_jax.runs.checksum import checksum

VALUES = np.random.default_rng(0).standard_normal((8, 6)).astype(np.float32)


def test_it_is_the_sum_of_all_words():
    tree = {"a": jnp.array([1, 2, -1], jnp.int32), "b": [jnp.array(2**31, jnp.uint32)]}
    assert checksum(tree) == (1 + 2 + 2**32 - 1 + 2**31) % 2**32
    assert checksum({}) == 0


@pytest.mark.parametrize("where", [(), ("rows",), ("rows", "columns"), (None, "columns")])
def test_it_is_the_same_on_every_mesh(where):
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(4, 2), ("rows", "columns"))
    spread = jax.device_put(VALUES, NamedSharding(mesh, PartitionSpec(*where)))
    assert checksum([spread]) == checksum([VALUES]) != 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int32", "bool"])
def test_devices_compute_what_the_host_does(dtype):
    part = jnp.asarray(VALUES * 9).astype(dtype)
    assert int(module._sum_on_device(part)) == module._sum_on_host(part) > 0


@pytest.mark.parametrize("bit", [0, 13, 31])
def test_one_flipped_bit_is_enough(bit):
    flipped = VALUES.copy()
    flipped.view(np.uint32)[3, 4] ^= np.uint32(1 << bit)
    assert checksum([flipped]) != checksum([VALUES])


def test_processes_add_what_each_holds(monkeypatch):
    monkeypatch.setattr(module, "texts_of_all", lambda text: [text, str(2**32 - 1)])
    assert checksum([VALUES]) == (checksum_alone() - 1) % 2**32


def checksum_alone():
    return int(VALUES.view(np.uint32).sum(dtype=np.uint32))
