"""The feed-forward of one network on all rows, by the best kernel where the program will run."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cartesian_moe_jax.kernels.activations import Activation
from cartesian_moe_jax.kernels.native import native_feed_forward
from cartesian_moe_jax.kernels.native_library import native_library_problem
from cartesian_moe_jax.kernels.weights import FeedForwardWeights
from cartesian_moe_jax.platform import target_platform


def dense_feed_forward(
    x: Float[Array, "*batch d_model"],
    gate: Float[Array, "d_model d_ff"] | None,
    up: Float[Array, "d_model d_ff"],
    down: Float[Array, "d_ff d_model"],
    activation: Activation,
) -> Float[Array, "*batch d_model"]:
    """Gated: (act(x gate) * (x up)) down; plain, where ``gate`` is None: act(x up) down.

    In x's dtype. XLA can split all but the compiled kernel over a mesh, so that one is for one
    device; there the network is a set of one expert.
    """
    if _compiled(x.dtype):
        rows = x.reshape(-1, x.shape[-1])
        weights = jax.tree.map(lambda w: w[None], FeedForwardWeights(gate, up, down))
        size = jnp.full((1,), rows.shape[0], jnp.int32)
        return native_feed_forward(rows, size, weights, activation).reshape(x.shape)
    into = [None if w is None else x @ w.astype(x.dtype) for w in (gate, up)]
    return activation.hidden(*into) @ down.astype(x.dtype)


def _compiled(dtype: jnp.dtype) -> bool:
    mesh = jax.sharding.get_abstract_mesh()
    one = mesh.empty or mesh.size == 1
    float32_on_cpu = target_platform() == "cpu" and dtype == jnp.float32
    return one and float32_on_cpu and not native_library_problem()
