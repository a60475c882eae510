"""Grouped feed-forward composed of grouped matmuls, whose three legs are chosen one by one."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from cartesian_moe_jax.kernels.activations import Activation
from cartesian_moe_jax.kernels.pre_activation import PreActivation
from cartesian_moe_jax.kernels.weights import FeedForwardWeights


class GroupedMatmul(NamedTuple):
    """A matmul whose weights change from group to group of rows, and its two gradients.

    Rows are grouped as in `grouped_feed_forward`. Every leg takes both operands in one dtype and
    accumulates in float32. Rows behind the live ones may hold anything, in operands and results,
    but enter no sum.
    """

    forward: Callable[
        [
            Float[Array, "rows inputs"],
            Float[Array, "experts inputs outputs"],
            Int[Array, "experts"],
        ],
        Float[Array, "rows outputs"],
    ]
    """Each row times its expert's weights; in the dtype of the rows."""
    to_rows: Callable[
        [
            Float[Array, "rows outputs"],
            Float[Array, "experts inputs outputs"],
            Int[Array, "experts"],
        ],
        Float[Array, "rows inputs"],
    ]
    """Each row times its expert's weights, transposed; in the dtype of the rows."""
    to_weights: Callable[
        [Float[Array, "rows inputs"], Float[Array, "rows outputs"], Int[Array, "experts"]],
        Float[Array, "experts inputs outputs"],
    ]
    """The sum over an expert's rows of the outer products, zeros without rows; in float32."""


class Residuals(NamedTuple):
    """What the forward pass leaves for the backward pass."""

    rows: Float[Array, "rows d_model"]
    group_sizes: Int[Array, "experts"]
    weights: FeedForwardWeights
    pre: PreActivation


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 4))
def composed_feed_forward(
    matmul: GroupedMatmul,
    rows: Float[Array, "rows d_model"],
    group_sizes: Int[Array, "experts"],
    weights: FeedForwardWeights,
    activation: Activation,
) -> Float[Array, "rows d_model"]:
    """See `grouped_feed_forward`; here all arrays must vary over the same mesh axes."""
    return _forward(matmul, rows, group_sizes, weights, activation)[0]


def _forward(
    matmul: GroupedMatmul,
    rows: Float[Array, "rows d_model"],
    group_sizes: Int[Array, "experts"],
    weights: FeedForwardWeights,
    activation: Activation,
) -> tuple[Float[Array, "rows d_model"], Residuals]:
    # The narrow weights are not kept: they would be a second copy, and casting again is cheap.
    gate, up, down = _cast(weights, rows.dtype)
    pre = PreActivation(
        None if gate is None else matmul.forward(rows, gate, group_sizes),
        matmul.forward(rows, up, group_sizes),
    )
    hidden = activation.hidden(*_cast(pre, jnp.float32)).astype(rows.dtype)
    output = _keep_live(matmul.forward(hidden, down, group_sizes), group_sizes)
    return output, Residuals(rows, group_sizes, weights, pre)


def _backward(
    matmul: GroupedMatmul,
    activation: Activation,
    residuals: Residuals,
    d_output: Float[Array, "rows d_model"],
) -> tuple[Float[Array, "rows d_model"], None, FeedForwardWeights]:
    rows, group_sizes, weights, pre = residuals
    gate, up, down = _cast(weights, rows.dtype)
    d_hidden = matmul.to_rows(d_output, down, group_sizes).astype(jnp.float32)
    hidden, pull = jax.vjp(activation.hidden, *_cast(pre, jnp.float32))
    hidden, d_gate, d_up = _cast((hidden, *pull(d_hidden)), rows.dtype)
    d_rows = matmul.to_rows(d_up, up, group_sizes)
    if gate is not None:
        d_rows += matmul.to_rows(d_gate, gate, group_sizes)
    d_weights = FeedForwardWeights(
        None if gate is None else matmul.to_weights(rows, d_gate, group_sizes),
        matmul.to_weights(rows, d_up, group_sizes),
        matmul.to_weights(hidden, d_output, group_sizes),
    )
    d_weights = jax.tree.map(lambda d, w: d.astype(w.dtype), d_weights, weights)
    return _keep_live(d_rows, group_sizes), None, d_weights


composed_feed_forward.defvjp(_forward, _backward)


def _cast(arrays: Any, dtype: DTypeLike) -> Any:
    return jax.tree.map(lambda array: array.astype(dtype), arrays)


def is_live(rows: int, group_sizes: Int[Array, "experts"]) -> Bool[Array, "rows 1"]:
    """Which rows belong to a group."""
    return (jnp.arange(rows) < jnp.sum(group_sizes))[:, None]


def _keep_live(
    rows: Float[Array, "rows width"], group_sizes: Int[Array, "experts"]
) -> Float[Array, "rows width"]:
    return jnp.where(is_live(rows.shape[0], group_sizes), rows, 0)
