"""Grouped feed-forward by tiles: plain XLA, dropless, in memory independent of the experts."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cartesian_moe_jax.kernels.activations import Activation
from cartesian_moe_jax.kernels.buffers import zero_buffers
from cartesian_moe_jax.kernels.pre_activation import PreActivation
from cartesian_moe_jax.kernels.tiles import Tile, Tiling
from cartesian_moe_jax.kernels.weights import FeedForwardWeights

# XLA:CPU multiplies slower when the left operand enters transposed. From this height on it pays
# to transpose the inputs once, behind a barrier, for the two weight gradients that need them.
_TRANSPOSE_FROM = 512


class ForwardState(NamedTuple):
    """What the forward loops carry; `pre` is None where no backward pass will follow."""

    output: Float[Array, "rows d_model"]
    pre: PreActivation | None


class ExpertWeights(NamedTuple):
    """The weights of one expert, or their gradients."""

    gate: Float[Array, "d_model d_expert"] | None
    up: Float[Array, "d_model d_expert"]
    down: Float[Array, "d_expert d_model"]


class BackwardState(NamedTuple):
    """What the backward loops carry: the gradients."""

    rows: Float[Array, "rows d_model"]
    weights: FeedForwardWeights


class Residuals(NamedTuple):
    """What the forward pass leaves for the backward pass."""

    rows: Float[Array, "rows d_model"]
    group_sizes: Int[Array, "experts"]
    weights: FeedForwardWeights
    pre: PreActivation


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def tiled_feed_forward(
    rows: Float[Array, "rows d_model"],
    group_sizes: Int[Array, "experts"],
    weights: FeedForwardWeights,
    activation: Activation,
) -> Float[Array, "rows d_model"]:
    """See `grouped_feed_forward`; here all arrays must vary over the same mesh axes.

    A loop over the experts that have rows, around loops over their tiles. The trip counts are
    dynamic, so the time follows the live rows.
    """
    (output,) = zero_buffers(group_sizes, rows)
    state = ForwardState(output, None)
    return _run_forward(rows, group_sizes, weights, activation, state).output


def _forward(
    rows: Float[Array, "rows d_model"],
    group_sizes: Int[Array, "experts"],
    weights: FeedForwardWeights,
    activation: Activation,
) -> tuple[Float[Array, "rows d_model"], Residuals]:
    like = jax.ShapeDtypeStruct((rows.shape[0], weights.up.shape[2]), rows.dtype)
    output, gate, up = zero_buffers(group_sizes, rows, like, like)
    pre = PreActivation(gate if activation.gated else None, up)
    state = _run_forward(rows, group_sizes, weights, activation, ForwardState(output, pre))
    return state.output, Residuals(rows, group_sizes, weights, state.pre)


def _run_forward(
    rows: Float[Array, "rows d_model"],
    group_sizes: Int[Array, "experts"],
    weights: FeedForwardWeights,
    activation: Activation,
    state: ForwardState,
) -> ForwardState:
    tiling = Tiling.of(group_sizes, rows.shape[0])

    def run_expert(index: Int[Array, ""], state: ForwardState) -> ForwardState:
        expert = _take_expert(weights, index, rows.dtype)

        def run_tile(tile: Tile, state: ForwardState) -> ForwardState:
            pre = _pre_activation(tile.load(rows), expert)
            hidden = activation.hidden(pre.gate, pre.up).astype(rows.dtype)
            output = tile.store(state.output, _dot(hidden, expert.down))
            kept = None if state.pre is None else jax.tree.map(tile.store, state.pre, pre)
            return ForwardState(output, kept)

        return tiling.for_each_tile(index, run_tile, state)

    return tiling.for_each_expert(run_expert, state)


def _backward(
    activation: Activation, residuals: Residuals, d_output: Float[Array, "rows d_model"]
) -> tuple[Float[Array, "rows d_model"], None, FeedForwardWeights]:
    rows, group_sizes, weights, pre = residuals
    tiling = Tiling.of(group_sizes, rows.shape[0])

    def run_expert(index: Int[Array, ""], state: BackwardState) -> BackwardState:
        expert = _take_expert(weights, index, rows.dtype)

        def run_tile(tile: Tile, state: BackwardState) -> BackwardState:
            tile_pre = jax.tree.map(tile.load, pre)
            x, d_y = tile.load(rows), tile.load(d_output)
            d_x, d_expert = _tile_gradients(x, tile_pre, d_y, expert, activation)
            if not tile.opens:
                so_far = _take_expert(state.weights, index, jnp.dtype("float32"))
                d_expert = jax.tree.map(jnp.add, so_far, d_expert)
            d_weights = _put_expert(state.weights, d_expert, index)
            return BackwardState(tile.store(state.rows, d_x), d_weights)

        return tiling.for_each_tile(index, run_tile, state)

    # float32 until all tiles are added, whatever the dtype of the weights
    wide = jax.tree.map(lambda w: jax.ShapeDtypeStruct(w.shape, jnp.float32), weights)
    leaves, structure = jax.tree.flatten(BackwardState(rows, wide))
    zeros = structure.unflatten(zero_buffers(group_sizes, *leaves, salt=8))
    d_rows, d_weights = tiling.for_each_expert(run_expert, zeros)
    return d_rows, None, jax.tree.map(lambda d, w: d.astype(w.dtype), d_weights, weights)


tiled_feed_forward.defvjp(_forward, _backward)


def _tile_gradients(
    x: Float[Array, "height d_model"],
    pre: PreActivation,
    d_y: Float[Array, "height d_model"],
    expert: ExpertWeights,
    activation: Activation,
) -> tuple[Float[Array, "height d_model"], ExpertWeights]:
    pre = jax.tree.map(lambda array: array.astype(jnp.float32), pre)
    hidden, pull = jax.vjp(activation.hidden, *pre)
    d_pre = pull(_dot_nt(d_y, expert.down))
    hidden, (d_gate, d_up) = jax.tree.map(lambda a: a.astype(x.dtype), (hidden, d_pre))
    d_x = _dot_nt(d_up, expert.up)
    if d_gate is None:
        return d_x, ExpertWeights(None, _dot_tn(x, d_up), _dot_tn(hidden, d_y))
    d_x += _dot_nt(d_gate, expert.gate)
    if x.shape[0] >= _TRANSPOSE_FROM:
        x_t = jax.lax.optimization_barrier(x.T)
        return d_x, ExpertWeights(_dot(x_t, d_gate), _dot(x_t, d_up), _dot_tn(hidden, d_y))
    return d_x, ExpertWeights(_dot_tn(x, d_gate), _dot_tn(x, d_up), _dot_tn(hidden, d_y))


def _pre_activation(x: Float[Array, "height d_model"], expert: ExpertWeights) -> PreActivation:
    gate = None if expert.gate is None else _dot(x, expert.gate)
    return PreActivation(gate, _dot(x, expert.up))


def _take_expert(
    weights: FeedForwardWeights, index: Int[Array, ""], dtype: jnp.dtype
) -> ExpertWeights:
    def take(weight: Float[Array, "experts d_in d_out"]) -> Float[Array, "d_in d_out"]:
        return jax.lax.dynamic_index_in_dim(weight, index, keepdims=False).astype(dtype)

    return ExpertWeights(*(None if weight is None else take(weight) for weight in weights))


def _put_expert(
    weights: FeedForwardWeights, expert: ExpertWeights, index: Int[Array, ""]
) -> FeedForwardWeights:
    def put(
        weight: Float[Array, "experts d_in d_out"], slice_: Float[Array, "d_in d_out"]
    ) -> Float[Array, "experts d_in d_out"]:
        return jax.lax.dynamic_update_index_in_dim(weight, slice_.astype(weight.dtype), index, 0)

    return jax.tree.map(put, weights, FeedForwardWeights(*expert))


def _contract(
    a: Float[Array, "..."], b: Float[Array, "..."], axis_a: int, axis_b: int
) -> Float[Array, "..."]:
    dims = (((axis_a,), (axis_b,)), ((), ()))
    return jax.lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)


# The letters say which operand enters transposed.
_dot = functools.partial(_contract, axis_a=1, axis_b=0)
_dot_nt = functools.partial(_contract, axis_a=1, axis_b=1)
_dot_tn = functools.partial(_contract, axis_a=0, axis_b=0)
