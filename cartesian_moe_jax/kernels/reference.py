"""The dense loop: every expert on every row, masked by its group. Slow, and obviously right."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cartesian_moe_jax.kernels.activations import Activation
from cartesian_moe_jax.kernels.weights import FeedForwardWeights


def reference_feed_forward(
    rows: Float[Array, "rows d_model"],
    group_sizes: Int[Array, "experts"],
    weights: FeedForwardWeights,
    activation: Activation,
) -> Float[Array, "rows d_model"]:
    """See `grouped_feed_forward`; costs `experts` times the operations of the tiled form."""
    ends = jnp.cumsum(group_sizes)
    index = jnp.arange(rows.shape[0])
    # Rows behind the live ones may hold anything, even NaN, and a mask on the output alone would
    # let it into the gradients.
    rows = jnp.where((index < ends[-1])[:, None], rows, 0)
    output = jnp.zeros_like(rows)
    for expert in range(group_sizes.shape[0]):
        own = (index >= ends[expert] - group_sizes[expert]) & (index < ends[expert])
        update = _feed_forward(rows, weights, expert, activation)
        output = jnp.where(own[:, None], update, output)
    return output


def _feed_forward(
    rows: Float[Array, "rows d_model"],
    weights: FeedForwardWeights,
    expert: int,
    activation: Activation,
) -> Float[Array, "rows d_model"]:
    gate = None if weights.gate is None else _project(rows, weights.gate[expert])
    hidden = activation.hidden(gate, _project(rows, weights.up[expert])).astype(rows.dtype)
    return _project(hidden, weights.down[expert]).astype(rows.dtype)


def _project(
    rows: Float[Array, "rows inputs"], weight: Float[Array, "inputs outputs"]
) -> Float[Array, "rows outputs"]:
    return jnp.dot(rows, weight.astype(rows.dtype), preferred_element_type=jnp.float32)
