"""How rematerialisation finds what an attention kernel leaves for its backward pass."""

from typing import Any

import jax
from jax.extend.core import Primitive

ATTENTION_RESIDUALS = "attention_residuals"
"""The name of the output and the softmax's sums, given to them where a kernel can be told it."""

_FORWARD_KERNELS = ("dot_product_attention_fwd_wrapper",)
"""The operations that are to be found by their own name: cuDNN's."""

_is_named = jax.checkpoint_policies.save_only_these_names(ATTENTION_RESIDUALS)


def is_attention_residual(operation: Primitive, *shapes: Any, **settings: Any) -> bool:
    """A policy of `jax.checkpoint`: with what it keeps, no kernel attends twice."""
    return operation.name in _FORWARD_KERNELS or _is_named(operation, *shapes, **settings)
