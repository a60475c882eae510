"""Grouped feed-forward on CPU by compiled kernels (kernels/native), in float32.

A piece of one expert's rows is turned so that rows lie in the lanes of vectors; weights are then
read from where they are, each element once for all lanes. Three calls: forward, the gradient to
the rows, the gradients to the weights.
"""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cartesian_moe_jax.kernels.activations import Activation, exact_gelu
from cartesian_moe_jax.kernels.native_call import native_call
from cartesian_moe_jax.kernels.weights import FeedForwardWeights

FUNCTIONS: Mapping[Callable, str] = MappingProxyType(
    {jax.nn.silu: "silu", jax.nn.relu: "relu", exact_gelu: "gelu"}
)
"""What the library calls the functions of activations."""


class Residuals(NamedTuple):
    """What the forward pass leaves for the backward pass."""

    rows: Float[Array, "rows d_model"]
    group_sizes: Int[Array, "experts"]
    weights: FeedForwardWeights
    pre_gate: Float[Array, "gate_rows d_expert"]
    """No rows where the activation is not gated."""
    pre_up: Float[Array, "rows d_expert"]


def native_feed_forward(
    rows: Float[Array, "rows d_model"],
    group_sizes: Int[Array, "experts"],
    weights: FeedForwardWeights,
    activation: Activation,
) -> Float[Array, "rows d_model"]:
    """See `grouped_feed_forward`; here all arrays must vary over the same mesh axes.

    Other dtypes are computed in float32.
    """
    wide, weights = jax.tree.map(lambda array: array.astype(jnp.float32), (rows, weights))
    output = _feed_forward(wide, group_sizes.astype(jnp.int32), weights, activation)
    return output.astype(rows.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _feed_forward(
    rows: Float[Array, "rows d_model"],
    group_sizes: Int[Array, "experts"],
    weights: FeedForwardWeights,
    activation: Activation,
) -> Float[Array, "rows d_model"]:
    return _run_forward(rows, group_sizes, weights, activation, keep=False)[0]


def _forward(
    rows: Float[Array, "rows d_model"],
    group_sizes: Int[Array, "experts"],
    weights: FeedForwardWeights,
    activation: Activation,
) -> tuple[Float[Array, "rows d_model"], Residuals]:
    output, *pre = _run_forward(rows, group_sizes, weights, activation, keep=True)
    return output, Residuals(rows, group_sizes, weights, *pre)


def _run_forward(
    rows: Float[Array, "rows d_model"],
    group_sizes: Int[Array, "experts"],
    weights: FeedForwardWeights,
    activation: Activation,
    *,
    keep: bool,
) -> tuple[Float[Array, "_ _"], ...]:
    """The output, and what enters the activation: gate and up, of no rows if it is not kept."""
    d_expert = weights.up.shape[2]
    kept = rows.shape[0] if keep else 0
    shapes = (rows.shape, (kept if activation.gated else 0, d_expert), (kept, d_expert))
    function = FUNCTIONS[activation.function]
    arrays = (rows, group_sizes, *_three(weights))
    return native_call("cartesian_moe_forward", shapes, *arrays, function=function)


def _backward(
    activation: Activation, residuals: Residuals, d_output: Float[Array, "rows d_model"]
) -> tuple[Float[Array, "rows d_model"], None, FeedForwardWeights]:
    rows, group_sizes, weights, pre_gate, pre_up = residuals
    d_rows, hidden, d_gate, d_up = native_call(
        "cartesian_moe_to_rows",
        (rows.shape, pre_up.shape, pre_gate.shape, pre_up.shape),
        *(d_output, group_sizes, *_three(weights), pre_gate, pre_up),
        in_place=((5, 2), (6, 3)),
        function=FUNCTIONS[activation.function],
    )
    d_gates, *d_others = native_call(
        "cartesian_moe_to_weights",
        tuple(weight.shape for weight in _three(weights)),
        *(rows, d_output, group_sizes, hidden, d_gate, d_up),
    )
    return d_rows, None, FeedForwardWeights(d_gates if activation.gated else None, *d_others)


_feed_forward.defvjp(_forward, _backward)


def _three(weights: FeedForwardWeights) -> tuple[Float[Array, "experts d_in d_out"], ...]:
    """The gate, of no experts if there is none, up and down."""
    gate = weights.up[:0] if weights.gate is None else weights.gate
    return gate, weights.up, weights.down
