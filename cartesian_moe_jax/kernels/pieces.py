"""A float32 matrix as bfloat16 pieces, and its product with a bfloat16 one by those pieces.

Float32 products do not run on a GPU's tensor cores and take six passes on a TPU's matrix unit.
A float32 has 24 bits and a bfloat16 eight, so three pieces hold all of a float32, unless it is
below about 1e-30. The product of two bfloat16 is exact in float32, in which they are summed.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, BFloat16, Float32

from cartesian_moe_jax.varying import vary_alike


def product_by_pieces(
    x: BFloat16[Array, "tokens inputs"], weight: Float32[Array, "inputs outputs"]
) -> Float32[Array, "tokens outputs"]:
    """x W and the gradient of W to the accuracy of float32, by one bfloat16 product each.

    The gradient of x is accurate to about 2^-16 before it is rounded to bfloat16. An infinity in W
    or in the gradient of x W makes NaN where it would make infinities.
    """
    return _product(*vary_alike((x, weight)))


def pieces(matrix: Float32[Array, "rows columns"]) -> list[BFloat16[Array, "rows columns"]]:
    """Three bfloat16 matrices that add up to this one, large to small."""
    found = []
    for _ in range(3):
        # Not a cast and back, which XLA may take for nothing (xla_allow_excess_precision).
        piece = jax.lax.reduce_precision(matrix, exponent_bits=8, mantissa_bits=7)
        found.append(piece.astype(jnp.bfloat16))
        matrix = matrix - piece
    return found


@jax.custom_vjp
def _product(
    x: BFloat16[Array, "tokens inputs"], weight: Float32[Array, "inputs outputs"]
) -> Float32[Array, "tokens outputs"]:
    return _by_columns(x, weight)


def _forward(
    x: BFloat16[Array, "tokens inputs"], weight: Float32[Array, "inputs outputs"]
) -> tuple[Float32[Array, "tokens outputs"], tuple[Array, Array]]:
    return _by_columns(x, weight), (x, weight)


def _backward(
    kept: tuple[Array, Array], d_output: Float32[Array, "tokens outputs"]
) -> tuple[BFloat16[Array, "tokens inputs"], Float32[Array, "inputs outputs"]]:
    x, weight = kept
    return _to_rows(d_output, weight), _by_columns(x.T, d_output)


_product.defvjp(_forward, _backward)


def _by_columns(
    left: BFloat16[Array, "rows inputs"], right: Float32[Array, "inputs outputs"]
) -> Float32[Array, "rows outputs"]:
    """left [high | middle | low], the parts then added up, small ones first."""
    columns = jnp.concatenate(pieces(right), axis=1)
    parts = jnp.dot(left, columns, preferred_element_type=jnp.float32)
    high, middle, low = jnp.split(parts, 3, axis=1)
    return high + (middle + low)


def _to_rows(
    d_output: Float32[Array, "tokens outputs"], weight: Float32[Array, "inputs outputs"]
) -> BFloat16[Array, "tokens inputs"]:
    """d_output W^T, by the three largest of the nine products of two pieces."""
    d_high, d_middle, _ = pieces(d_output)
    high, middle, _ = pieces(weight)
    d_columns = jnp.concatenate([d_high, d_high, d_middle], axis=1)
    columns = jnp.concatenate([high, middle, high], axis=1)
    product = jnp.dot(d_columns, columns.T, preferred_element_type=jnp.float32)
    return product.astype(jnp.bfloat16)
