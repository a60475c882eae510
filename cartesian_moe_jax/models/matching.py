"""Widths that give every method the same budget: computed from the counts, never typed in.

A model's parameters are an affine function of the width of its experts (or of its feed-forwards),
so two counts say which width a budget needs.
"""

import dataclasses
import functools
from typing import NamedTuple

from cartesian_moe_jax.config import ModelConfig
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.models.budget import active_parameters, total_parameters
from cartesian_moe_jax.models.build import abstract_model
from cartesian_moe_jax.models.feed_forwards import moe_layers
from cartesian_moe_jax.models.methods import PlainLayer, with_method
from cartesian_moe_jax.models.parameters import named_parameters
from cartesian_moe_jax.parallel.layouts import LAYOUTS

MULTIPLES = (128, 64, 32, 16, 8, 4, 2, 1)
"""What a width may be a multiple of: the largest that is close enough."""
CLOSE = 0.001
"""Share of the budget."""


class Budget(NamedTuple):
    """What a method may cost."""

    total: int
    active: int
    """Parameters that one token uses."""


def plain_layer(config: ModelConfig) -> PlainLayer:
    """Return the MoE layer before any method: E experts of width d_ff, k of them chosen."""
    return PlainLayer(config.d_ff, config.moe.num_experts, config.moe.top_k)


def budget_of(config: ModelConfig) -> Budget:
    """Return what the model costs with plain MoE layers and a shared expert (smoe_share)."""
    return count(with_method(config, "smoe_share", plain_layer(config)))


@functools.lru_cache(maxsize=256)
def count(config: ModelConfig) -> Budget:
    """Count a model's parameters."""
    parameters = named_parameters(abstract_model(config, LAYOUTS["data"]))
    return Budget(total_parameters(parameters), active_parameters(parameters, config))


def with_matching_width(config: ModelConfig, budget: Budget) -> ModelConfig:
    """Return the model with the width that meets the budget.

    Of a model with experts that is their width, and the total is met. A model without can meet
    the active parameters alone: by what stands in place of the MoE layers, or, where nothing
    does, by all its feed-forwards.
    Raises UserError if even width 1 is too much.
    """
    routed, in_place = bool(moe_layers(config)), bool(config.moe.interval)
    wanted = budget.total if routed else budget.active
    change = _d_expert if in_place else _d_ff

    def counted(width: int) -> int:
        counts = count(change(config, width))
        return counts.total if routed else counts.active

    first, second = counted(1), counted(2)
    if first == second:
        raise UserError("no width changes this model's parameters: no layer has the matched form")
    exact = 1 + (wanted - first) / (second - first)
    if exact < 1:
        raise UserError(f"no width gives this model {wanted:,} parameters: the least is {first:,}")
    tolerance = CLOSE * wanted / (second - first)
    return change(config, _rounded(exact, tolerance))


def _d_expert(config: ModelConfig, width: int) -> ModelConfig:
    return dataclasses.replace(config, moe=dataclasses.replace(config.moe, d_expert=width))


def _d_ff(config: ModelConfig, width: int) -> ModelConfig:
    return dataclasses.replace(config, d_ff=width)


def _rounded(exact: float, tolerance: float) -> int:
    """Return the multiple nearest to ``exact``, the coarsest within ``tolerance`` of it."""
    nearest = [max(1, round(exact / multiple)) * multiple for multiple in MULTIPLES]
    return next((width for width in nearest if abs(width - exact) <= tolerance), nearest[-1])
