"""How the schema in config.py is built: settings with meaning and check, and reading dicts."""

import dataclasses
import math
import re
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from cartesian_moe_jax.errors import UserError, nearest

Section = TypeVar("Section")


class Check(NamedTuple):
    """What a value must satisfy, and the words that say so."""

    accepts: Callable[[Any], bool]
    allowed: str


def at_least(low: int | float) -> Check:
    """Allow ``low`` and everything above."""
    return Check(lambda v: v >= low, f"at least {low}")


def above(low: int | float) -> Check:
    """Allow everything above ``low``."""
    return Check(lambda v: v > low, f"above {low}")


def between(low: int | float, high: int | float) -> Check:
    """Allow ``low`` to ``high``, both included."""
    return Check(lambda v: low <= v <= high, f"{low} to {high}")


def from_to_below(low: int | float, high: int | float) -> Check:
    """Allow ``low`` and everything above, but not ``high`` or what is above it."""
    return Check(lambda v: low <= v < high, f"at least {low}, below {high}")


def one_of(*values: Any) -> Check:
    """Allow the listed values."""
    return Check(lambda v: v in values, "one of " + ", ".join(map(str, values)))


def mesh_size() -> Check:
    """Allow a positive number of devices, 0 for the layout's, or -1 for those that are left."""
    allowed = "at least 1, or 0 for what suits the layout, or -1 for the rest of the devices"
    return Check(lambda v: v >= -1, allowed)


def span() -> Check:
    """Allow START:STEPS, both at least 1, or nothing."""
    shape = re.compile(r"([1-9]\d*:[1-9]\d*)?")
    return Check(lambda v: shape.fullmatch(v) is not None, "START:STEPS, both at least 1, or empty")


anything = Check(lambda v: True, "anything")


def setting(
    default: Any,
    meaning: str,
    check: Check = anything,
    *,
    resumable: bool = False,
    plan: bool = False,
) -> Any:
    """Declare a field: its default, meaning (with unit) and check.

    ``resumable``: an existing run may be continued with another value. ``plan``: it may where
    that says nothing else of the steps taken, which training/prolonging.py decides.
    """
    metadata = {"meaning": meaning, "check": check, "resumable": resumable, "plan": plan}
    return dataclasses.field(default=default, metadata=metadata)


def section(kind: type, meaning: str) -> Any:
    """Declare a nested section of the schema."""
    return dataclasses.field(default_factory=kind, metadata={"meaning": meaning})


def from_dict(kind: type[Section], values: Mapping[str, Any], path: str = "") -> Section:
    """Build a section from nested dicts; fields left out keep their defaults.

    Raises UserError for an unknown field (with the nearest names), a wrong type, or a failed check.
    """
    fields = {f.name: f for f in dataclasses.fields(kind)}
    types_ = typing.get_type_hints(kind)
    for name in values:
        if name not in fields:
            raise UserError(f"config.{path}{name} is not a field{nearest(name, fields)}")
    return kind(
        **{name: _read(fields[name], types_[name], value, path) for name, value in values.items()}
    )


def _read(field: dataclasses.Field, kind: Any, value: Any, path: str) -> Any:
    name = f"{path}{field.name}"
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise UserError(f"config.{name}={value!r} is not a section of fields")
        return from_dict(kind, value, f"{name}.")
    value = _as_type(kind, value, name)
    check: Check = field.metadata["check"]
    if not check.accepts(value):
        raise UserError(f"config.{name}={value!r} is not allowed: {check.allowed}")
    return value


def _as_type(kind: Any, value: Any, name: str) -> Any:
    """Return ``value`` as ``kind``: ints may stand for floats, nothing else is converted."""
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UserError(f"config.{name}={value!r} is not allowed: {kind.__name__} wanted")
    if kind is float and not math.isfinite(value):
        raise UserError(f"config.{name}={value!r} is not allowed: a finite number wanted")
    return value


def differences(first: Any, second: Any, path: str = "", *, plan: bool = False) -> list[str]:
    """List the fields that are not ``resumable`` and differ, as ``model.d_model: 128 -> 256``.

    Those of the plan are listed alone where ``plan`` is true, else left out.
    """
    lines = []
    for field in dataclasses.fields(first):
        a, b = getattr(first, field.name), getattr(second, field.name)
        if dataclasses.is_dataclass(a):
            lines += differences(a, b, f"{path}{field.name}.", plan=plan)
        elif a != b and not field.metadata["resumable"] and field.metadata["plan"] == plan:
            lines.append(f"{path}{field.name}: {a!r} -> {b!r}")
    return lines


def describe(kind: type, path: str = "config.") -> list[str]:
    """List every field as ``config.model.d_model = 128: meaning (allowed)``: the printed manual."""
    lines, hints = [], typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[field.name]):
            lines += describe(hints[field.name], f"{path}{field.name}.")
        else:
            allowed = field.metadata["check"].allowed
            suffix = "" if field.metadata["check"] is anything else f" ({allowed})"
            meaning = field.metadata["meaning"]
            lines.append(f"{path}{field.name} = {field.default!r}: {meaning}{suffix}")
    return lines
