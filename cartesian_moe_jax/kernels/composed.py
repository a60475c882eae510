"""Grouped feed-forward composed of grouped matmuls, whose three legs are chosen one by one."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from cartesian_moe_jax.kernels.activations import Activation
from cartesian_moe_jax.kernels.pre_activation import PreActivation
from cartesian_moe_jax.kernels.weights import FeedForwardWeights

Rows = Float[Array, "rows ..."]
Stacked = Float[Array, "experts ..."]
Sizes = Int[Array, "experts"]
Finish = Callable[..., tuple[Rows, ...]]
"""What becomes of products before they are written: elementwise, in float32. Hashable."""


class GroupedMatmul(NamedTuple):
    """A matmul whose weights change from group to group of rows, and its two gradients.

    Rows are grouped as in `grouped_feed_forward`. Every leg takes both operands in one dtype and
    accumulates in float32. Rows behind the live ones may hold anything, in operands and results,
    but enter no sum.
    """

    forward: Callable[[Rows, tuple[Stacked, ...], Sizes, Finish], tuple[Rows, ...]]
    """finish(*products), each row times its expert's weights; in the dtype of the rows.

    With several weights, each gives a product of its own.
    """
    to_rows: Callable[..., tuple[Rows, ...]]
    """to_rows(d_outputs, weights, group_sizes, finish, *beside) -> finish(product, *beside).

    The product is each row of d_outputs times its expert's weights, transposed. Both are tuples of
    one length, over which it is summed. In the dtype of d_outputs.
    """
    to_weights: Callable[[Rows, Rows, Sizes, DTypeLike], Stacked]
    """The sum over an expert's rows of the outer products, zeros without rows.

    In the dtype that is asked for: that of the weights, rounded once where the sum is at hand.
    Of d_outputs only finite values stay with their expert: the Hopper kernel multiplies zeros with
    those of its neighbours, whose gradients are not finite either where one of them is not.
    """
    clears: bool = False
    """Whether rows behind the live ones are zeros in what is finished `as_they_are`."""


Multiply = Callable[[Rows, Stacked, Sizes, bool], Rows]
"""multiply(rows, weights, group_sizes, transposed): one product, in the dtype of the rows."""


def forward_by(multiply: Multiply) -> Callable[..., tuple[Rows, ...]]:
    """The forward leg of a matmul that finishes nothing itself: XLA does it in a second pass."""

    def forward(
        rows: Rows, weights: tuple[Stacked, ...], group_sizes: Sizes, finish: Finish
    ) -> tuple[Rows, ...]:
        products = [multiply(rows, weight, group_sizes, False) for weight in weights]
        return finished(finish, products, rows.dtype)

    return forward


def to_rows_by(multiply: Multiply) -> Callable[..., tuple[Rows, ...]]:
    """The leg to the rows of a matmul that neither sums products nor finishes them itself."""

    def to_rows(
        d_outputs: tuple[Rows, ...],
        weights: tuple[Stacked, ...],
        group_sizes: Sizes,
        finish: Finish,
        *beside: Rows,
    ) -> tuple[Rows, ...]:
        products = [
            multiply(d_output, weight, group_sizes, True)
            for d_output, weight in zip(d_outputs, weights, strict=True)
        ]
        first, *others = _widen(products)
        return finished(finish, (sum(others, first), *beside), d_outputs[0].dtype)

    return to_rows


def finished(finish: Finish, arrays: Sequence[Rows], dtype: DTypeLike) -> tuple[Rows, ...]:
    """finish(*arrays) in float32, or float64 if they are; in `dtype`."""
    return _cast(finish(*_widen(arrays)), dtype)


def as_they_are(*products: Rows) -> tuple[Rows, ...]:
    """Finishes nothing."""
    return products


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
    *into, down = _narrow(weights, rows.dtype)
    *pre, hidden = matmul.forward(rows, tuple(into), group_sizes, activation.keep_and_activate)
    (output,) = matmul.forward(hidden, (down,), group_sizes, as_they_are)
    kept = PreActivation(pre[0] if activation.gated else None, pre[-1])
    return _keep_live(matmul, output, group_sizes), Residuals(rows, group_sizes, weights, kept)


def _backward(
    matmul: GroupedMatmul,
    activation: Activation,
    residuals: Residuals,
    d_output: Float[Array, "rows d_model"],
) -> tuple[Float[Array, "rows d_model"], None, FeedForwardWeights]:
    rows, group_sizes, weights, pre = residuals
    *into, down = _narrow(weights, rows.dtype)
    hidden, *d_pre = matmul.to_rows(
        (d_output,), (down,), group_sizes, activation.recompute_and_pull, *jax.tree.leaves(pre)
    )
    (d_rows,) = matmul.to_rows(tuple(d_pre), tuple(into), group_sizes, as_they_are)
    dtype = weights.up.dtype
    d_into = [matmul.to_weights(rows, d_each, group_sizes, dtype) for d_each in d_pre]
    d_down = matmul.to_weights(hidden, d_output, group_sizes, dtype)
    d_weights = FeedForwardWeights(d_into[0] if activation.gated else None, d_into[-1], d_down)
    return _keep_live(matmul, d_rows, group_sizes), None, d_weights


composed_feed_forward.defvjp(_forward, _backward)


def _narrow(weights: FeedForwardWeights, dtype: DTypeLike) -> list[Stacked]:
    """(gate, up, down) or (up, down), in the dtype of the rows."""
    return _cast(jax.tree.leaves(weights), dtype)


def _cast(arrays: Any, dtype: DTypeLike) -> Any:
    return jax.tree.map(lambda array: array.astype(dtype), arrays)


def _widen(arrays: Any) -> Any:
    return jax.tree.map(lambda a: a.astype(jnp.promote_types(a.dtype, jnp.float32)), arrays)


def is_live(rows: int, group_sizes: Int[Array, "experts"]) -> Bool[Array, "rows 1"]:
    """Which rows belong to a group."""
    return (jnp.arange(rows) < jnp.sum(group_sizes))[:, None]


def _keep_live(
    matmul: GroupedMatmul, rows: Float[Array, "rows width"], group_sizes: Int[Array, "experts"]
) -> Float[Array, "rows width"]:
    return rows if matmul.clears else jnp.where(is_live(rows.shape[0], group_sizes), rows, 0)
