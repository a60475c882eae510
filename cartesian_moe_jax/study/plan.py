"""The runs of a study, and the config of each."""

import dataclasses
from typing import Any, NamedTuple

from cartesian_moe_jax.config import Config, OptimizerConfig, StudyConfig
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.models.budget import forward_flops_per_token
from cartesian_moe_jax.models.build import abstract_model
from cartesian_moe_jax.models.feed_forwards import moe_layers
from cartesian_moe_jax.models.matching import Budget, count
from cartesian_moe_jax.models.parameters import named_parameters
from cartesian_moe_jax.parallel.layouts import LAYOUTS
from cartesian_moe_jax.study.record import COMPARISON, TUNING, Record
from cartesian_moe_jax.study.tuning import Given, Rates
from cartesian_moe_jax.study.variants import Variant, variant_config


class Run(NamedTuple):
    """One training run of a study."""

    purpose: str
    variant: Variant
    seed: int
    rates: Rates

    def describe(self) -> str:
        """Say in words what is trained."""
        rate = f"learning rate {self.rates.learning_rate:g}"
        if self.rates.expert_rate != 1:
            rate += f" ({self.rates.expert_rate:g} times that for experts)"
        return f"{self.purpose}: {self.variant.name}, seed {self.seed}, {rate}"

    def record(self, config: Config, setting: dict[str, Any], **measured: Any) -> Record:
        """Return the record of this run, whose config is given."""
        model, optimizer = model_facts(config), config.optimizer
        experts = optimizer.expert_rate if model["has_experts"] else 1.0
        rates = {"learning_rate": optimizer.learning_rate, "expert_rate": experts}
        return Record(self.purpose, self.variant.name, self.seed, rates, setting, model, **measured)


def tuning_run(study: StudyConfig, variant: Variant, rates: Rates) -> Run:
    """Return a run that only tunes."""
    return Run(TUNING, variant, study.tuning_seed, rates)


def comparison_run(variant: Variant, seed: int, rates: Rates) -> Run:
    """Return a run that is compared."""
    return Run(COMPARISON, variant, seed, rates)


def given_rates(config: Config, variant: Variant) -> Given:
    """Return the rates that a variant names: they are taken as they are, and not tuned."""
    optimizer = variant_config(config, variant).optimizer
    named = [name for name in Given._fields if f"optimizer.{name}" in variant.fields]
    return Given(**{name: getattr(optimizer, name) for name in named})


def require_untouched_rates(config: Config) -> None:
    """Raise UserError for rates of a study's own config, which the grid would replace."""
    for name in Given._fields:
        value = getattr(config.optimizer, name)
        if value != getattr(OptimizerConfig, name):
            raise UserError(
                f"config.optimizer.{name}={value:g} is not allowed in a study: what is tried is "
                f"config.study.{name}s, and METHOD+optimizer.{name}={value:g} gives one method its"
            )


def run_config(config: Config, run: Run) -> Config:
    """Return what a run trains; ``config`` is the study's, with the vocabulary's size.

    Its rates are those of the run, which hold what the variant names (``grid_of``).
    Runs that tune are as long as ``study.tuning_steps`` says, warm-up and decay a like share of it.
    Raises UserError for a variant that cannot be.
    """
    c = variant_config(config, run.variant)
    steps = c.training.steps
    if run.purpose == TUNING:
        steps = config.study.tuning_steps or steps
    warmup, decay = c.optimizer.warmup_steps, c.optimizer.decay_steps
    optimizer = dataclasses.replace(
        c.optimizer,
        learning_rate=run.rates.learning_rate,
        expert_rate=run.rates.expert_rate,
        warmup_steps=round(warmup * steps / c.training.steps),
        # Not rounded up, or both together may be longer than the run.
        decay_steps=max(decay * steps // c.training.steps, min(decay, 1)),
    )
    return dataclasses.replace(
        c,
        optimizer=optimizer,
        training=dataclasses.replace(c.training, seed=run.seed, steps=steps, keep_checkpoints=1),
        evaluation=dataclasses.replace(c.evaluation, baseline=False, sample_tokens=0),
        study=StudyConfig(),
    )


def model_facts(config: Config) -> dict[str, Any]:
    """Return a variant's shape and counts, as ``Record.model`` holds them."""
    model = config.model
    parameters = named_parameters(abstract_model(model, LAYOUTS["data"]))
    counts: Budget = count(model)
    return {
        "d_ff": model.d_ff,
        "d_expert": model.moe.d_expert,
        "num_experts": model.moe.num_experts,
        "sublayers": model.moe.sublayers,
        "top_k": model.moe.top_k,
        "router": model.moe.router,
        "total_parameters": counts.total,
        "active_parameters": counts.active,
        "forward_flops": forward_flops_per_token(parameters, model, config.data.seq_len),
        "has_experts": bool(moe_layers(model)),
        "in_place": bool(model.moe.interval),
    }


def seeds_of(study: StudyConfig) -> list[int]:
    """Read the seeds; raises UserError for what is no list of different whole numbers."""
    parts = [part.strip() for part in study.seeds.split(",")]
    seeds = [int(part) for part in parts if part.isdecimal() and int(part) < 2**32]
    if len(set(seeds)) < len(parts) or study.tuning_seed in seeds:
        raise UserError(
            f"config.study.seeds={study.seeds!r} is not allowed: different whole numbers joined "
            f"by commas, none of them config.study.tuning_seed={study.tuning_seed}"
        )
    return seeds
