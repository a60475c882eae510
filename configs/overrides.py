"""Flags for the fields of a run's config that eval.py may change; importing this makes them."""

import typing
from typing import Any

from absl import flags

from cartesian_moe_jax.config import Config
from cartesian_moe_jax.evaluation.changeable import CHANGEABLE, allowed

_DEFINE = {int: flags.DEFINE_integer, str: flags.DEFINE_string}


def _define() -> dict[tuple[str, str], flags.FlagHolder]:
    kinds = typing.get_type_hints(Config)
    found = {}
    for section, names in CHANGEABLE.items():
        hints, fields = typing.get_type_hints(kinds[section]), kinds[section].__dataclass_fields__
        for name in names:
            meaning = fields[name].metadata["meaning"]
            define = _DEFINE[hints[name]]
            found[section, name] = define(f"config.{section}.{name}", None, meaning)
    return found


_FLAGS = _define()


def changes() -> dict[str, dict[str, Any]]:
    """Return the values that were given, by section and field."""
    given: dict[str, dict[str, Any]] = {}
    for (section, name), flag in _FLAGS.items():
        if flag.value is not None:
            given.setdefault(section, {})[name] = flag.value
    return given


def refusal(name: str) -> str:
    """Say why another flag of the config is none here; empty for flags of other names."""
    of_config = name == "config" or name.startswith("config.")
    return f"--{name} is not allowed: {allowed()}" if of_config else ""
