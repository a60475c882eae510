"""Token ids to vectors, wherever the table lies."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cartesian_moe_jax.models.parameters import logical_axes
from cartesian_moe_jax.parallel.axes import BATCH, TENSOR
from cartesian_moe_jax.parallel.gathering import gather_parts
from cartesian_moe_jax.parallel.layouts import Layout, mesh_axes, partition_spec
from cartesian_moe_jax.parallel.mesh import current_mesh


def embed(
    table: Float[Array, "vocab d_model"],
    token_ids: Int[Array, "batch seq"],
    layout: Layout,
    dtype: jnp.dtype,
) -> Float[Array, "batch seq d_model"]:
    """Return each token's row of the table, in ``dtype``.

    On several devices each looks up its own tokens. Left to itself, the compiler brings the
    gradients of all tokens to every device that holds a part of the table.
    """
    mesh = current_mesh()
    axes = logical_axes("embedding")
    spec = partition_spec(layout, mesh, axes, table.shape, "embedding")
    if all(mesh.shape[axis] == 1 for entry in spec for axis in mesh_axes(entry)):
        return _look_up(table, token_ids, dtype)
    vocab_is_split = TENSOR in mesh_axes(spec[0]) and mesh.shape[TENSOR] > 1

    def on_each_device(
        table: Float[Array, "part_of_vocab part_of_d_model"],
        token_ids: Int[Array, "local_batch seq"],
    ) -> Float[Array, "local_batch seq d_model"]:
        table = gather_parts(table, spec, axes, {("vocab", TENSOR)}, mesh, dtype)
        if not vocab_is_split:
            return _look_up(table, token_ids, dtype)
        rows = token_ids - jax.lax.axis_index(TENSOR) * table.shape[0]
        is_here = (rows >= 0) & (rows < table.shape[0])
        found = _look_up(table, jnp.where(is_here, rows, 0), dtype)
        return jax.lax.psum(jnp.where(is_here[..., None], found, 0), TENSOR)

    return jax.shard_map(on_each_device, mesh=mesh, in_specs=(spec, BATCH), out_specs=BATCH)(
        table, token_ids
    )


def _look_up(
    table: Float[Array, "vocab width"], token_ids: Int[Array, "batch seq"], dtype: jnp.dtype
) -> Float[Array, "batch seq width"]:
    # The gradient of a frequent token has many terms: of bfloat16 the sum would stop growing.
    return table.astype(jnp.float32)[token_ids].astype(dtype)
