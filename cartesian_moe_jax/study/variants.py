"""What is compared: a method of the paper, or one with some fields changed, at matched budget."""

import dataclasses
import typing
from typing import Any, NamedTuple

from cartesian_moe_jax import config as schema
from cartesian_moe_jax.config import Config, StudyConfig
from cartesian_moe_jax.errors import UserError, lookup, nearest
from cartesian_moe_jax.models.matching import budget_of, plain_layer, with_matching_width
from cartesian_moe_jax.models.methods import METHODS, with_method

WIDTHS = ("model.d_ff", "model.moe.d_expert")
BOOLEANS = {"true": True, "false": False}
CHANGEABLE = ("model", "optimizer")
"""The sections that are the method's own: what a token passes, and how the weights move. The
others say on what, for how long and how it is measured, which all that is compared must share."""


class Variant(NamedTuple):
    """A method, and fields of the config changed in it."""

    name: str
    """As it was written: METHOD+FIELD=VALUE+..."""
    method: str
    changes: tuple[tuple[str, str], ...]

    @property
    def fields(self) -> frozenset[str]:
        """The fields that it names: nothing chooses another value for them."""
        return frozenset(field for field, _ in self.changes)


def parse_variants(text: str) -> list[Variant]:
    """Read ``smoe_share,cartesian+model.moe.sublayers=3``; raises UserError for what is wrong."""
    variants = [_variant(name.strip()) for name in text.split(",") if name.strip()]
    if not variants:
        raise UserError("config.study.methods is empty: name at least one method")
    names = [variant.name for variant in variants]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise UserError(f"config.study.methods names {', '.join(sorted(repeated))} twice")
    return variants


def bases_of(study: StudyConfig) -> list[str]:
    """Return the variants that others are compared with, each once: the reference, then ``bases``.

    Raises UserError for one that is none.
    """
    names = [name.strip() for name in study.bases.split(",") if name.strip()]
    reference = _variant(study.reference, "config.study.reference").name
    return list(
        dict.fromkeys([reference, *(_variant(n, "config.study.bases").name for n in names)])
    )


def _variant(name: str, field: str = "config.study.methods") -> Variant:
    method, *changes = name.split("+")
    lookup(METHODS, method, field)
    pairs = [tuple(change.split("=", 1)) for change in changes]
    for pair in pairs:
        if len(pair) != 2 or "/" in name:
            raise UserError(f"{field}={name!r}: METHOD+FIELD=VALUE+... wanted")
        _require_changeable(pair[0], name, field)
    return Variant(name, method, tuple(pairs))


def _require_changeable(path: str, name: str, field: str) -> None:
    """Raise UserError for a field that exists, and that all variants must have in common."""
    sections = {section.name for section in dataclasses.fields(Config)} - set(CHANGEABLE)
    # The size of the vocabulary is the tokenizer's, and losses per token are compared.
    if path.partition(".")[0] in sections or path == "model.vocab_size":
        raise UserError(
            f"{field}={name!r} is not allowed: {path} must be the same in all that is compared; "
            f"a variant may change fields of {' and '.join(CHANGEABLE)}"
        )


def variant_config(config: Config, variant: Variant) -> Config:
    """Return the config of a variant, of the width that meets the budget of the config's model.

    ``config.model`` describes the plain layer: d_ff, moe.num_experts, moe.top_k. A variant that
    sets a width itself keeps it. Raises UserError for an unknown field or a value not allowed.
    """
    budget = budget_of(config.model)
    changed = changed_config(config, variant)
    if not variant.fields & set(WIDTHS):
        model = with_matching_width(changed.model, budget)
        changed = dataclasses.replace(changed, model=model)
    return changed


def changed_config(config: Config, variant: Variant) -> Config:
    """Return the config with what a variant changes, its width not matched yet."""
    plain = plain_layer(config.model)
    model = dataclasses.replace(with_method(config.model, variant.method, plain), d_ff=plain.d_ff)
    changed = dataclasses.replace(config, model=model)
    for field, value in variant.changes:
        changed = _with_field(changed, field, value)
    return changed


def _with_field(config: Config, path: str, text: str) -> Config:
    values = dataclasses.asdict(config)
    *sections, name = path.split(".")
    section: Any = values
    kind: Any = Config
    for part in sections:
        kind = typing.get_type_hints(kind).get(part)
        if not dataclasses.is_dataclass(kind):
            raise UserError(f"config.{path} is not a field")
        section = section[part]
    if name not in section or isinstance(section[name], dict):
        raise UserError(f"config.{path} is not a field{nearest(name, section)}")
    section[name] = _typed(typing.get_type_hints(kind)[name], text, path)
    return schema.read(values)


def _typed(kind: type, text: str, path: str) -> Any:
    try:
        return BOOLEANS[text.lower()] if kind is bool else kind(text)
    except (ValueError, KeyError):
        raise UserError(f"config.{path}={text!r} is not allowed: {kind.__name__} wanted") from None
