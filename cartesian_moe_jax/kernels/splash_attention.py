"""Causal attention by splash attention, the kernel for TPU that jax ships: no scores in memory.

Where programs are not compiled for TPU, the kernel is interpreted: slowly, for tests.
"""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as library
from jaxtyping import Array, Float

from cartesian_moe_jax.kernels.attention_residuals import ATTENTION_RESIDUALS
from cartesian_moe_jax.platform import target_platform

_LANES = 128
_BLOCKS = (512, 384, 256, 128)
"""Positions of a block, best first: the larger, the less often keys and values are read."""


def splash_attention(
    query: Float[Array, "batch seq heads d_head"],
    key: Float[Array, "batch seq heads d_head"],
    value: Float[Array, "batch seq heads d_head"],
) -> Float[Array, "batch seq heads d_head"]:
    """See `CausalAttention`. XLA cannot partition it: call it on what one device holds."""
    _, seq, heads, d_head = query.shape
    filled = -(-seq // _LANES) * _LANES
    kernel = _kernel(heads, filled)

    def by_head(
        array: Float[Array, "batch seq heads d_head"],
    ) -> Float[Array, "batch heads filled d_filled"]:
        # Causal queries read no keys behind them, so what fills up the end changes nothing.
        width = d_head if d_head < _LANES else -(-d_head // _LANES) * _LANES
        filler = ((0, 0), (0, 0), (0, filled - seq), (0, width - d_head))
        return jnp.pad(array.swapaxes(1, 2), filler)

    # vmap adds the batch to the kernel's grid.
    read = jax.vmap(kernel)(by_head(query * d_head**-0.5), by_head(key), by_head(value))
    return read[:, :, :seq, :d_head].swapaxes(1, 2)


def block_of(filled: int) -> int:
    """The positions of a block that divides `filled`, a multiple of 128."""
    return next(block for block in _BLOCKS if filled % block == 0)


def _kernel(heads: int, filled: int) -> library.splash_attention_kernel.SplashAttentionKernel:
    block = block_of(filled)
    sizes = library.BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_q_dq=block,
        block_kv_dq=block,
    )
    mask = library.MultiHeadMask([library.CausalMask((filled, filled))] * heads)
    return library.make_splash_mha_single_device(
        mask,
        block_sizes=sizes,
        residual_checkpoint_name=ATTENTION_RESIDUALS,
        interpret=target_platform() != "tpu",
    )
