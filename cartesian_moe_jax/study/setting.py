"""What runs must have in common to be compared."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from cartesian_moe_jax import config as schema
from cartesian_moe_jax.config import Config
from cartesian_moe_jax.data.prepared import PreparedData
from cartesian_moe_jax.models.matching import budget_of

APART = ("data.corpus", "data.validation_corpus", "data.tokenizer", "training.seed")
"""Fields that may differ between records: where the data lies (its hash says what it is)."""

MISSING = "(missing)"


class Difference(NamedTuple):
    """A field that two settings do not have in common."""

    field: str
    first: Any
    second: Any


def setting_of(config: Config, data: PreparedData) -> dict[str, Any]:
    """Return what runs must have in common to be compared, as field -> value.

    ``config`` is the study's, with the vocabulary's size.
    """
    budget = budget_of(config.model)
    fields = {k: v for k, v in flat(config).items() if k not in APART}
    return fields | {
        "total_parameters": budget.total,
        "active_parameters": budget.active,
        "validation_tokens": config.evaluation.max_tokens,
        "robustness_tokens": config.study.robustness_tokens,
        "tuning_steps": config.study.tuning_steps or config.training.steps,
        "data_hash": data.content_hash,
        "tokenizer": data.tokenizer.identity(),
        "train_tokens": sum(len(part.tokens) for part in data.train),
    }


def config_of(setting: Mapping[str, Any]) -> Config:
    """Return the study's config, as far as a setting has it: the rest are defaults."""
    values: dict[str, Any] = {}
    for path in flat(Config()).keys() & setting.keys():
        *sections, name = path.split(".")
        section = values
        for part in sections:
            section = section.setdefault(part, {})
        section[name] = setting[path]
    return schema.read(values)


def flat(section: Any, path: str = "") -> dict[str, Any]:
    """Flatten the fields with which a run cannot be continued otherwise."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            found |= flat(value, f"{path}{field.name}.")
        elif not field.metadata["resumable"]:
            found[f"{path}{field.name}"] = value
    return found


def difference(first: Mapping[str, Any], second: Mapping[str, Any]) -> Difference | None:
    """Return the first field in which two settings differ, or None.

    Where a setting lacks a field of the schema it is from before that field, whose default is how
    runs were then.
    """
    defaults = flat(Config())
    for field in sorted(first.keys() | second.keys()):
        default = defaults.get(field, MISSING)
        values = first.get(field, default), second.get(field, default)
        if values[0] != values[1]:
            return Difference(field, *values)
    return None
