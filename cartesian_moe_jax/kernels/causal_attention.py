"""Causal attention, and the kernels for it by name."""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cartesian_moe_jax.kernels.blocked_attention import blocked_attention
from cartesian_moe_jax.kernels.native_attention import native_attention, native_takes
from cartesian_moe_jax.kernels.splash_attention import splash_attention
from cartesian_moe_jax.platform import target_platform


class CausalAttention(NamedTuple):
    """softmax(q k^T / sqrt(d_head)) v over each position and those before it."""

    run: Callable[
        [
            Float[Array, "batch seq heads d_head"],
            Float[Array, "batch seq heads d_head"],
            Float[Array, "batch seq heads d_head"],
        ],
        Float[Array, "batch seq heads d_head"],
    ]
    """From query, key and value, in their dtype; softmax in float32."""
    partitions: bool
    """Whether XLA can split it over a mesh; if not, each device has to call it on its part."""
    takes: Callable[[jnp.dtype, int], bool] = lambda dtype, d_head: True
    """Whether it can run in a dtype, with heads of a width."""


def _cudnn_takes(dtype: jnp.dtype, d_head: int) -> bool:
    # Hopper takes 256 too, but whether it is one is asked of the devices at hand.
    return dtype in (jnp.bfloat16, jnp.float16) and d_head % 8 == 0 and d_head <= 128


_library = functools.partial(jax.nn.dot_product_attention, is_causal=True)

ATTENTIONS: Mapping[str, CausalAttention] = MappingProxyType(
    {
        "native": CausalAttention(native_attention, partitions=False, takes=native_takes),
        "blocked": CausalAttention(blocked_attention, partitions=True),
        "xla": CausalAttention(functools.partial(_library, implementation="xla"), partitions=True),
        "cudnn": CausalAttention(
            functools.partial(_library, implementation="cudnn"),
            partitions=False,
            takes=_cudnn_takes,
        ),
        "splash": CausalAttention(splash_attention, partitions=False),
    }
)

_PREFERRED = {"cpu": ("native", "blocked"), "tpu": ("splash",), "gpu": ("cudnn", "xla")}
"""By the platform that programs are compiled for, best first; the last takes everything."""


def best_causal_attention(dtype: jnp.dtype, d_head: int) -> CausalAttention:
    """The best one in ATTENTIONS where the program will run."""
    preferred = [ATTENTIONS[name] for name in _PREFERRED[target_platform()]]
    return next(kernel for kernel in preferred if kernel.takes(dtype, d_head))
