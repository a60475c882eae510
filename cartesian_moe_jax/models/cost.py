"""What a model costs as a whole and by part: parameters, FLOPs, memory."""

import functools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from cartesian_moe_jax.config import Config, ModelConfig
from cartesian_moe_jax.models.budget import (
    BACKWARD_AND_FORWARD,
    active_parameters,
    attention_flops_per_token,
    matrix_flops_per_token,
    total_parameters,
)
from cartesian_moe_jax.models.build import abstract_model
from cartesian_moe_jax.models.parameters import named_parameters, trainable
from cartesian_moe_jax.parallel.layouts import LAYOUTS

BYTES = 4
"""Of a float32: parameters and AdamW's two moments are such."""
MOMENTS = 2

PARTS: Mapping[str, str] = {
    "embedding": r"^embedding$",
    "attention": r"/attention/",
    "routers": r"/router/|^table$",
    "routed experts": r"/experts/",
    "shared experts": r"/shared_expert/",
    "norms": r"gain$",
    "dense feed-forward": r"/feed_forwards?/",
    "head": r"^head$",
}
"""Parts of a model, by the parameters' names; the first that matches has a parameter."""


ATTENTION_SCORES = "attention scores"


class Cost(NamedTuple):
    """What a model, or one part of it, costs. Of a varying number of experts (top_p), the most."""

    total_parameters: int
    active_parameters: int
    """Those that one token uses."""
    forward_flops: float
    """Of one token."""
    training_flops: float
    """Of one token, without recomputation."""
    optimizer_bytes: int
    """AdamW's moments; frozen parameters have none."""
    checkpoint_bytes: int
    """Parameters and moments."""

    def plus(self, other: "Cost") -> "Cost":
        """Return the sums."""
        return Cost(*map(sum, zip(self, other, strict=True)))


NOTHING = Cost(0, 0, 0, 0, 0, 0)


def model_cost(config: Config) -> dict[str, Cost]:
    """Return the cost of each part of a model, of those that it has; they add up to the whole."""
    parameters = named_parameters(abstract_model(config.model, LAYOUTS["data"]))
    parts: dict[str, dict[str, Any]] = {name: {} for name in PARTS}
    for name, value in parameters.items():
        parts[part_of(name)][name] = value
    scores = attention_flops_per_token(config.model, config.data.seq_len)
    costs = {part: _cost(named, config.model) for part, named in parts.items() if named}
    without_parameters = NOTHING._replace(
        forward_flops=scores, training_flops=BACKWARD_AND_FORWARD * scores
    )
    return costs | {ATTENTION_SCORES: without_parameters}


def whole(parts: Mapping[str, Cost]) -> Cost:
    """Return the cost of all parts."""
    return functools.reduce(Cost.plus, parts.values(), NOTHING)


def part_of(name: str) -> str:
    """Return the part that a parameter belongs to."""
    return next(part for part, pattern in PARTS.items() if re.search(pattern, name))


def _cost(parameters: Mapping[str, Any], config: ModelConfig) -> Cost:
    total = total_parameters(parameters)
    moments = MOMENTS * BYTES * total_parameters(trainable(parameters))
    flops = matrix_flops_per_token(parameters, config)
    return Cost(
        total_parameters=total,
        active_parameters=active_parameters(parameters, config),
        forward_flops=flops,
        training_flops=BACKWARD_AND_FORWARD * flops,
        optimizer_bytes=moments,
        checkpoint_bytes=BYTES * total + moments,
    )
