"""Looking tokens up, and what comes back to the table."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cartesian_moe_jax.models.embedding import embed
from cartesian_moe_jax.models.fitting_mesh import mesh_of
from cartesian_moe_jax.parallel.axes import AXES
from cartesian_moe_jax.parallel.layouts import LAYOUTS
from tests import tiny

VOCAB, WIDTH = 16, 8
MESHES = {"data": {"data": 1}, "fsdp": {"fsdp": 2}, "tensor": {"data": 1, "tensor": 2}}


@pytest.mark.parametrize("layout", MESHES)
def test_the_gradient_of_a_frequent_token_is_summed_in_float32(layout):
    """8192 equal terms: a sum in bfloat16 would stop growing after 256 of them."""
    sizes = dict.fromkeys(AXES, 1) | MESHES[layout]
    config = tiny.config(parallel={"layout": layout, **sizes})
    mesh = mesh_of(config, jax.devices()[: int(np.prod(list(sizes.values())))])
    table = jnp.ones((VOCAB, WIDTH))
    token_ids = jnp.full((4, 2048), 3).at[0, 0].set(5)

    @functools.partial(jax.jit, static_argnums=1)
    def gradient(table, dtype):
        def total(table):
            return embed(table, token_ids, LAYOUTS[layout], dtype).sum(dtype=jnp.float32)

        return jax.grad(total)(table)

    with jax.set_mesh(mesh):
        found = gradient(table, jnp.dtype("bfloat16"))
    expected = np.zeros((VOCAB, WIDTH))
    expected[3], expected[5] = 4 * 2048 - 1, 1
    # What devices add up among themselves may be rounded to bfloat16 once.
    np.testing.assert_allclose(found, expected, rtol=2**-8)
