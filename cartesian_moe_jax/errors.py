"""The error a user can act on, and the lookup that names the nearest choices."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

Value = TypeVar("Value")


class UserError(ValueError):
    """Wrong input. The message is one line that names the field, the value and what is allowed.

    The entry points print it without a traceback and exit with status 2.
    """


class AgreedError(UserError):
    """Wrong input that all processes of a run know of: they leave together."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'a' or 'b'?`` for the known names closest to ``name``, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else ""


def lookup(table: Mapping[str, Value], name: str, field: str) -> Value:
    """Return ``table[name]``; raises UserError naming ``field`` and every allowed name."""
    if name in table:
        return table[name]
    raise UserError(f"{field}={name!r} is unknown: allowed are {', '.join(sorted(table))}")
