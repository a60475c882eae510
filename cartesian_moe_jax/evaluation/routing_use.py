"""Which experts held-out tokens use: one by one, and composed over successive sub-layers."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from cartesian_moe_jax.evaluation.perplexity import Batches, Parameters
from cartesian_moe_jax.models.language_model import LanguageModel
from cartesian_moe_jax.models.parameters import with_parameters


class RoutingCounts(NamedTuple):
    """Sums over tokens: of one batch on devices, or of many on the host."""

    tokens: Int[Array | np.ndarray, ""]
    load: Float[Array | np.ndarray, "moe_layers sublayers experts"]
    """Tokens that use each expert."""
    pairs: Float[Array | np.ndarray, "moe_layers pairs experts experts"]
    """(Expert of sub-layer s, expert of sub-layer s + 1) combinations that tokens use."""


class ComposedExperts(NamedTuple):
    """How the experts of two successive sub-layers are combined."""

    effective: Float[np.ndarray, "*stack"]
    """exp(entropy) of the combinations: as many, used evenly, would be as varied."""
    independent: Float[np.ndarray, "*stack"]
    """What ``effective`` would be if either choice told nothing about the other."""
    possible: int
    """Combinations there are: experts squared."""
    mutual_information: Float[np.ndarray, "*stack"]
    """Nats that either choice tells about the other: log(independent / effective)."""


class RoutingUse(NamedTuple):
    """Which experts the tokens of held-out text use.

    Pairs are of successive sub-layers: sublayers - 1 of them, so none in a plain MoE layer.
    """

    load: Float[np.ndarray, "moe_layers sublayers experts"]
    """How often a token chooses each expert, on average."""
    pairs: Float[np.ndarray, "moe_layers pairs experts experts"]
    """[l, s, a, b]: share of the combinations (expert a of sub-layer s, expert b of s + 1) that
    tokens use; sums to 1. A token of top-2 in both has 4 combinations."""
    tokens: int
    """Tokens counted."""

    def experts_per_token(self) -> Float[np.ndarray, "moe_layers sublayers"]:
        """Return how many experts a token uses on average: k, or what top-p comes to."""
        return self.load.sum(-1)

    def relative_load(self) -> Float[np.ndarray, "moe_layers sublayers experts"]:
        """Return load / ideal load: 1 everywhere when the experts are used evenly."""
        return self.load / self.load.mean(-1, keepdims=True)

    def effective_experts(self) -> Float[np.ndarray, "moe_layers sublayers"]:
        """Return exp(entropy) of the load: as many experts, used evenly, would be as varied."""
        return effective_number(self.load / self.load.sum(-1, keepdims=True))

    def as_dict(self) -> dict[str, Any]:
        """Return all of it, and what it comes to, as nested lists for JSON."""
        composed = composed_experts(self.pairs)
        return {
            "tokens": self.tokens,
            "load": self.load.tolist(),
            "pairs": self.pairs.tolist(),
            "experts_per_token": self.experts_per_token().tolist(),
            "effective_experts": self.effective_experts().tolist(),
            "composed_experts": {
                "effective": composed.effective.tolist(),
                "independent": composed.independent.tolist(),
                "possible": composed.possible,
                "mutual_information": composed.mutual_information.tolist(),
            },
        }


def effective_number(shares: Float[np.ndarray, "*stack n"]) -> Float[np.ndarray, "*stack"]:
    """Return exp(entropy) of distributions, which sum to 1: n when even, 1 when all is one's."""
    return np.asarray(np.exp(_entropy(shares)))


def composed_experts(pairs: Float[np.ndarray, "*stack experts experts"]) -> ComposedExperts:
    """Say how varied combinations are, whose shares sum to 1 over the last two axes."""
    *stack, experts, _ = pairs.shape
    joint = _entropy(pairs.reshape(*stack, experts * experts))
    apart = _entropy(pairs.sum(-1)) + _entropy(pairs.sum(-2))
    return ComposedExperts(
        effective=np.asarray(np.exp(joint)),
        independent=np.asarray(np.exp(apart)),
        possible=experts * experts,
        mutual_information=np.asarray(apart - joint),
    )


def count_uses(
    choices: Bool[Array, "moe_layers sublayers tokens experts"], mask: Bool[Array, "tokens"]
) -> RoutingCounts:
    """Sum over the tokens where ``mask`` is true; all that comes back is small."""
    # Float32 is exact: a batch has fewer than 2**24 tokens.
    used = (choices & mask[:, None]).astype(jnp.float32)
    pairs = jnp.einsum("lpta,lptb->lpab", used[:, :-1], used[:, 1:])
    return RoutingCounts(jnp.sum(mask), jnp.sum(used, axis=2), pairs)


def make_counting_step(skeleton: LanguageModel) -> Callable[..., RoutingCounts]:
    """Return f(parameters, tokens [batch, seq + 1], mask [batch, seq]) -> counts of the batch.

    A position counts where the mask is true: where the next token is to be predicted. The model
    must have MoE layers.
    """

    def step(
        parameters: Parameters,
        tokens: Int[Array, "batch seq_plus_1"],
        mask: Bool[Array, "batch seq"],
    ) -> RoutingCounts:
        model = with_parameters(skeleton, parameters)
        _, stats = model.hidden(tokens[:, :-1], keep_choices=True)
        return count_uses(stats.choices, mask.reshape(-1))

    return step


def measure_routing_use(
    step: Callable[..., RoutingCounts],
    parameters: Parameters,
    batches: Batches,
    place: Callable[[np.ndarray], jax.Array],
) -> RoutingCounts:
    """Sum over batches, in float64.

    ``place`` puts a process's rows on its devices.
    """
    total = None
    for tokens, mask in batches:
        counts = step(parameters, place(tokens), place(mask))
        counts = RoutingCounts(
            np.asarray(counts.tokens, np.int64),
            np.asarray(counts.load, np.float64),
            np.asarray(counts.pairs, np.float64),
        )
        total = counts if total is None else RoutingCounts(*map(np.add, total, counts))
    return total


def mixed_use(parts: Sequence[RoutingCounts], weights: Sequence[float]) -> RoutingUse:
    """Return what text mixed by the weights, which add up to 1, would use; of one part, its own."""
    shares = [weight / part.tokens for weight, part in zip(weights, parts, strict=True)]
    load = sum(share * part.load for share, part in zip(shares, parts, strict=True))
    pairs = sum(share * part.pairs for share, part in zip(shares, parts, strict=True))
    return RoutingUse(
        load=load,
        pairs=pairs / pairs.sum((-2, -1), keepdims=True),
        tokens=sum(int(part.tokens) for part in parts),
    )


def _entropy(shares: Float[np.ndarray, "*stack n"]) -> Float[np.ndarray, "*stack"]:
    logs = np.log(np.where(shares > 0, shares, 1.0))
    return np.asarray(-np.sum(shares * logs, axis=-1))
