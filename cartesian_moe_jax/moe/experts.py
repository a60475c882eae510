"""The routed experts of one sub-layer: equal feed-forwards, stacked."""

import jax
from flax import nnx
from jaxtyping import Array, Float, Int

from cartesian_moe_jax.kernels import FeedForwardWeights, grouped_feed_forward
from cartesian_moe_jax.kernels.activations import get_activation
from cartesian_moe_jax.layers.initializers import normal


class FeedForwardExperts(nnx.Module):
    """E feed-forward experts of width d_expert, run on rows sorted by expert."""

    def __init__(
        self,
        num_experts: int,
        d_model: int,
        d_expert: int,
        activation: str,
        backend: str,
        std: float,
        *,
        rngs: nnx.Rngs,
    ):
        self.num_experts, self.activation, self.backend = num_experts, activation, backend
        if get_activation(activation).gated:
            self.gate = normal(rngs, (num_experts, d_model, d_expert), std)
        self.up = normal(rngs, (num_experts, d_model, d_expert), std)
        self.down = normal(rngs, (num_experts, d_expert, d_model), std)

    def weights(self) -> FeedForwardWeights:
        """Return the stacked weights: the part of the experts that a layout may split.

        Those of several layers alike come one layer after the other.
        """
        gate = self.gate[...] if hasattr(self, "gate") else None
        weights = FeedForwardWeights(gate, self.up[...], self.down[...])
        return jax.tree.map(lambda w: w.reshape(-1, *w.shape[-2:]), weights)

    def run(
        self,
        rows: Float[Array, "rows d_model"],
        group_sizes: Int[Array, "experts"],
        weights: FeedForwardWeights,
        repetition: Int[Array, ""] | None = None,
    ) -> Float[Array, "rows d_model"]:
        """Apply each expert to its group of rows; ``weights`` may be one device's share.

        With a ``repetition``, ``weights`` are those of several layers alike, which are read where
        they lie, and this is which of them the rows are for: the others' experts have none.
        """
        first = None if repetition is None else repetition * group_sizes.shape[0]
        return grouped_feed_forward(
            rows,
            group_sizes,
            weights,
            activation=self.activation,
            backend=self.backend,
            first=first,
        )
