"""What one token costs a variant, where its router chooses a varying number of experts."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from cartesian_moe_jax.models.budget import active_parameters, forward_flops_per_token
from cartesian_moe_jax.models.build import abstract_model
from cartesian_moe_jax.models.parameters import named_parameters
from cartesian_moe_jax.parallel.layouts import LAYOUTS
from cartesian_moe_jax.study.effective import effective_config
from cartesian_moe_jax.study.record import Record

VARYING = "top_p"
"""The router that chooses a varying number."""


class Costs(NamedTuple):
    """Of one token."""

    active_parameters: int
    forward_flops: float


def experts_per_token(run: Record) -> float | None:
    """Return the routed experts that a token chooses in one MoE layer, on average over layers.

    All sub-layers count; None where it was not measured.
    """
    if not run.routing_use:
        return None
    by_layer = [sum(map(sum, sublayers)) for sublayers in run.routing_use["load"]]
    return float(np.mean(by_layer))


def choices(run: Record) -> float | None:
    """Return the experts that a token chooses in one sub-layer, on average; None: unmeasured."""
    chosen = experts_per_token(run)
    return None if chosen is None else chosen / len(run.routing_use["load"][0])


def varies(run: Record) -> bool:
    """Say whether tokens choose a varying number of experts, and how many was measured."""
    return run.model.get("router") == VARYING and bool(run.routing_use)


def most(run: Record) -> Costs:
    """Return what its record says: where the number of experts varies, the most."""
    return Costs(run.model["active_parameters"], run.model["forward_flops"])


def costs_of(runs: Mapping[int, Record]) -> Costs:
    """Return what a token costs in the runs of a variant, by seed, at least one.

    Where the number of experts varies it is what the mean number costs, as measured.
    """
    first = next(iter(runs.values()))
    if not varies(first):
        return most(first)
    config = effective_config(first)
    layout = LAYOUTS["data"]
    parameters = named_parameters(abstract_model(config.model, layout))
    mean = float(np.mean([chosen for run in runs.values() if (chosen := choices(run)) is not None]))
    return Costs(
        active_parameters(parameters, config.model, mean),
        forward_flops_per_token(parameters, config.model, config.data.seq_len, mean),
    )
