"""What a run was trained with, from its record alone: the study's fields, and what it changed."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from cartesian_moe_jax.config import Config
from cartesian_moe_jax.study.matched import SIZES
from cartesian_moe_jax.study.record import Record
from cartesian_moe_jax.study.setting import APART, config_of, flat
from cartesian_moe_jax.study.variants import changed_config, parse_variants

OF_THE_STUDY = (*SIZES, "tuning_steps")
"""In a record's setting, and no fact of its run: the budget, and how long others tuned."""
IN_MOE = ("d_expert", "num_experts", "sublayers", "top_k", "router")


def effective_config(run: Record) -> Config:
    """Return the config that a run was trained with, but for fields that its record leaves out.

    Raises UserError if its variant is none.
    """
    [variant] = parse_variants(run.variant)
    config = changed_config(config_of(run.setting), variant)
    # Widths were computed, and rates tuned: the record has them.
    known = {name: run.model[name] for name in IN_MOE if name in run.model}
    moe = dataclasses.replace(config.model.moe, **known)
    model = dataclasses.replace(
        config.model, moe=moe, d_ff=run.model.get("d_ff", config.model.d_ff)
    )
    rates = {name: float(rate) for name, rate in run.rates.items()}
    optimizer = dataclasses.replace(config.optimizer, **rates)
    return dataclasses.replace(config, model=model, optimizer=optimizer)


def shared_fields(runs: Sequence[Record]) -> dict[str, Any]:
    """Return the fields that have one value in all runs, at least one, as field -> value."""
    first, *others = [_fields(run) for run in runs]
    return {
        field: value
        for field, value in first.items()
        if all(field in other and other[field] == value for other in others)
    }


def _fields(run: Record) -> dict[str, Any]:
    stated = {field: value for field, value in run.setting.items() if field not in OF_THE_STUDY}
    trained = flat(effective_config(run)).items()
    return stated | {field: value for field, value in trained if field not in APART}
