"""Grouped feed-forward by megablox, the grouped matmul kernels for TPU that jax ships.

Where programs are not compiled for TPU, the kernels are interpreted: slowly, for tests.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.megablox.gmm import gmm, tgmm
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from cartesian_moe_jax.kernels.composed import (
    GroupedMatmul,
    composed_feed_forward,
    forward_by,
    to_rows_by,
)
from cartesian_moe_jax.kernels.opaque_call import opaque_call
from cartesian_moe_jax.platform import target_platform

_LANES = 128
_HEIGHTS = (512, 256, 128)


class TileLimits(NamedTuple):
    """The largest tile, in elements: what fits on-chip memory twice, beside the accumulator."""

    summed: int
    """Along the dimension summed over; of weight gradients, along the inputs."""
    outputs: int


# Keyed by bytes per element. All TPUs give a kernel 16 MiB at least. Where a tile takes the whole
# sum, weights stay on chip for all tiles of a group: the first that does is taken, else the first.
MATMUL_LIMITS = {
    2: (TileLimits(1024, 1024), TileLimits(1536, 768), TileLimits(2048, 512)),
    4: (TileLimits(512, 1024), TileLimits(1024, 512), TileLimits(2048, 256)),
}
WEIGHT_GRADIENT_LIMITS = {2: (TileLimits(512, 1024),), 4: (TileLimits(512, 512),)}


def tile_height(rows: int, experts: int) -> int:
    """The rows of a tile, for groups of rows / experts rows on average.

    A tile is computed once for every group that reaches into it, so that `experts` tiles are
    computed more than the rows fill: low tiles waste less, and tall ones read weights less often.
    """
    fitting = [height for height in _HEIGHTS if height <= rows / experts / 2]
    return fitting[0] if fitting else _HEIGHTS[-1]


def tile_width(size: int, limit: int) -> int:
    """The width of the tiles that a dimension is cut into: all, or whole lanes that divide it."""
    if size <= limit:
        return size
    even = [width for width in range(limit, 0, -_LANES) if size % width == 0]
    return even[0] if even else limit


def tiling(
    rows: int, experts: int, inputs: int, outputs: int, choices: tuple[TileLimits, ...]
) -> tuple[int, int, int]:
    """The sizes of a tile along rows, inputs and outputs."""
    limits = next((limits for limits in choices if limits.summed >= inputs), choices[0])
    return (
        tile_height(rows, experts),
        tile_width(inputs, limits.summed),
        tile_width(outputs, limits.outputs),
    )


def _multiply(
    rows: Float[Array, "rows inputs"],
    weights: Float[Array, "experts ..."],
    group_sizes: Int[Array, "experts"],
    transposed: bool,
) -> Float[Array, "rows outputs"]:
    outputs = weights.shape[1 if transposed else 2]
    choices = MATMUL_LIMITS[rows.dtype.itemsize]
    tile = tiling(rows.shape[0], weights.shape[0], rows.shape[1], outputs, choices)
    filled = _fill(rows, tile[0])
    (product,) = opaque_call(
        _gmm,
        (jax.ShapeDtypeStruct((filled.shape[0], outputs), rows.dtype),),
        filled,
        weights,
        group_sizes.astype(jnp.int32),
        tiling=tile,
        transposed=transposed,
        interpret=_interpret(),
    )
    return product[: rows.shape[0]]


def _to_weights(
    rows: Float[Array, "rows inputs"],
    d_outputs: Float[Array, "rows outputs"],
    group_sizes: Int[Array, "experts"],
    dtype: DTypeLike,
) -> Float[Array, "experts inputs outputs"]:
    choices = WEIGHT_GRADIENT_LIMITS[rows.dtype.itemsize]
    tile = tiling(rows.shape[0], group_sizes.shape[0], rows.shape[1], d_outputs.shape[1], choices)
    shape = (group_sizes.shape[0], rows.shape[1], d_outputs.shape[1])
    (product,) = opaque_call(
        _tgmm,
        (jax.ShapeDtypeStruct(shape, dtype),),
        _fill(rows, tile[0]),
        _fill(d_outputs, tile[0]),
        group_sizes.astype(jnp.int32),
        dtype=jnp.dtype(dtype),
        tiling=tile,
        interpret=_interpret(),
    )
    return product


def _gmm(
    rows: Float[Array, "rows inputs"],
    weights: Float[Array, "experts ..."],
    group_sizes: Int[Array, "experts"],
    tiling: tuple[int, int, int],
    transposed: bool,
    interpret: bool,
) -> tuple[Float[Array, "rows outputs"]]:
    kind = rows.dtype
    return (
        gmm(
            rows,
            weights,
            group_sizes,
            kind,
            tiling,
            transpose_rhs=transposed,
            interpret=interpret,
        ),
    )


def _tgmm(
    rows: Float[Array, "rows inputs"],
    d_outputs: Float[Array, "rows outputs"],
    group_sizes: Int[Array, "experts"],
    dtype: jnp.dtype,
    tiling: tuple[int, int, int],
    interpret: bool,
) -> tuple[Float[Array, "experts inputs outputs"]]:
    # The kernel transposes back what it gets transposed.
    return (tgmm(rows.T, d_outputs, group_sizes, dtype, tiling, interpret=interpret),)


def _fill(rows: Float[Array, "rows width"], height: int) -> Float[Array, "filled width"]:
    """Adds rows until all tiles are full."""
    return jnp.pad(rows, ((0, -rows.shape[0] % height), (0, 0)))


def _interpret() -> bool:
    return target_platform() != "tpu"


MEGABLOX = GroupedMatmul(forward_by(_multiply), to_rows_by(_multiply), _to_weights)
megablox_feed_forward = functools.partial(composed_feed_forward, MEGABLOX)
