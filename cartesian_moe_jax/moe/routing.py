"""What a router says: to the dispatcher (Routing), to losses and telemetry (RoutingStats)."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RouterContext:
    """What a router may read beside the token's vector, and what is asked of it."""

    token_ids: Int[Array, "tokens"] | None = None
    table: Float[Array, "vocab experts"] | None = None
    """Logits by token id, where one table serves all sub-layers (hash)."""
    intervention: Any = None
    """What is done to the routing on purpose (moe/intervention.py); None: nothing."""
    repetition: Int[Array, ""] | None = None
    """Which of several layers alike runs, where it is given the experts of them all."""
    # Part of the tree's structure: never traced, no leaf where a context is mapped over.
    keep_choices: bool = dataclasses.field(default=False, metadata={"static": True})
    """Whether the statistics tell each token's experts."""
    train: bool = dataclasses.field(default=False, metadata={"static": True})
    """Whether exchanges may drop what overflows their buffers."""


NO_CONTEXT = RouterContext()
"""For layers used on their own."""


def per_sublayer(context: RouterContext, count: int) -> list[RouterContext]:
    """Return the context of each sub-layer: the same, but for its own intervention."""
    stacked = context.intervention
    own = [jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(count)]
    return [dataclasses.replace(context, intervention=intervention) for intervention in own]


class Swap(NamedTuple):
    """Tokens that are routed at random on purpose: to the experts that come first in ``order``."""

    is_swapped: Bool[Array, "tokens"]
    order: Float[Array, "tokens experts"]


class Scores(NamedTuple):
    """A router's scores, float32. They live inside the router: nothing else is this large."""

    logits: Float[Array, "tokens experts"]
    probabilities: Float[Array, "tokens experts"]
    swap: Swap | None = None


class Routing(NamedTuple):
    """Which experts each token uses. An unused slot has id = number of experts and weight 0."""

    expert_ids: Int[Array, "tokens slots"]
    weights: Float[Array, "tokens slots"]
    priority: Float[Array, "tokens slots"]


class RoutingStats(NamedTuple):
    """One sub-layer's routing in a batch, over the tokens of all devices.

    With leading axes (layers, sub-layers) where the statistics of several are stacked.
    """

    load: Float[Array, "*stack experts"]
    """f: how often a token chooses each expert, on average; sums to the mean number chosen."""
    mean_probability: Float[Array, "*stack experts"]
    """P: the mean router probability of each expert; sums to 1."""
    balance_loss: Float[Array, "*stack"]
    z_loss: Float[Array, "*stack"]
    entropy: Float[Array, "*stack"]
    """Mean entropy of the router's probabilities, in nats."""
    dropped: Float[Array, "*stack"]
    """Share of the chosen (token, expert) pairs that no expert computed."""
    choices: Bool[Array, "*stack tokens experts"] | None = None
    """Which experts each token uses; only where the context asks for it."""

    def experts_per_token(self) -> Float[Array, "*stack"]:
        """Return how many experts a token chooses on average: k, or what top-p comes to."""
        return jnp.sum(self.load, axis=-1)

    def relative_load(self) -> Float[Array, "*stack experts"]:
        """Return load / ideal load: 1 everywhere when the experts are used evenly."""
        return self.load / jnp.mean(self.load, axis=-1, keepdims=True)
