"""What may be asked to be continued: a text, token ids, or several of them."""

import numbers
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from cartesian_moe_jax.errors import UserError

Prompt = str | list[int]
Prompts = str | Sequence[Any] | np.ndarray | jax.Array


def read_prompts(given: Prompts) -> tuple[list[Prompt], bool]:
    """Return the prompts, and whether one was given and not a list of them.

    An empty list is one of no prompts. Raises UserError for anything else.
    """
    given = _plain(given)
    if (one := _prompt(given)) is not None and not _is_empty(given):
        return [one], True
    several = [_prompt(_plain(each)) for each in given] if isinstance(given, list) else [None]
    if any(each is None for each in several):
        raise UserError(
            f"prompt={_short(given)} is not allowed: a text, token ids (whole numbers), or a list "
            "of texts and lists of token ids"
        )
    return several, False


def _plain(given: Any) -> Any:
    """Return arrays and other sequences as lists."""
    if isinstance(given, np.ndarray | jax.Array):
        return given.tolist()
    return (
        list(given) if isinstance(given, Sequence) and not isinstance(given, str | bytes) else given
    )


def _prompt(given: Any) -> Prompt | None:
    if isinstance(given, str):
        return given
    is_ids = isinstance(given, list) and all(
        isinstance(i, numbers.Integral) and not isinstance(i, bool) for i in given
    )
    return [int(i) for i in given] if is_ids else None


def _is_empty(given: Any) -> bool:
    return isinstance(given, list) and not given


def _short(given: Any) -> str:
    text = repr(given)
    return text if len(text) <= 60 else f"{text[:57]}..."
