"""The product of tokens and a float32 matrix, to the accuracy of float32 whatever their dtype."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Float32

from cartesian_moe_jax.kernels import product_by_pieces
from cartesian_moe_jax.parallel.axes import BATCH
from cartesian_moe_jax.parallel.mesh import batch_parts
from cartesian_moe_jax.platform import target_platform

Product = Callable[
    [Float[Array, "tokens d_model"], Float[Array, "d_model experts"]],
    Float[Array, "tokens experts"],
]


def float32_product(
    x: Float[Array, "tokens d_model"], weight: Float[Array, "d_model experts"]
) -> Float32[Array, "tokens experts"]:
    """x W, by the best product where the program will run."""
    product = _OF_BFLOAT16[target_platform()] if x.dtype == jnp.bfloat16 else _float32_dot
    return product(x, weight)


def _float32_dot(
    x: Float[Array, "tokens d_model"], weight: Float[Array, "d_model experts"]
) -> Float32[Array, "tokens experts"]:
    return jnp.dot(x.astype(jnp.float32), weight, precision=jax.lax.Precision.HIGHEST)


def _by_pieces(
    x: Float[Array, "tokens d_model"], weight: Float[Array, "d_model experts"]
) -> Float32[Array, "tokens experts"]:
    weight = weight.astype(jnp.float32)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or mesh.manual_axes or x.shape[0] % batch_parts(mesh):
        return product_by_pieces(x, weight)
    # Left to itself XLA would sum each piece's gradient of W over the devices, thrice the bytes.
    whole = PartitionSpec()
    run = jax.shard_map(product_by_pieces, mesh=mesh, in_specs=(BATCH, whole), out_specs=BATCH)
    return run(x, weight)


_OF_BFLOAT16: Mapping[str, Product] = MappingProxyType(
    {"cpu": _float32_dot, "gpu": _by_pieces, "tpu": _by_pieces}
)
"""The product for bfloat16 tokens, by the platform that programs are compiled for."""
