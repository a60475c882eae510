"""Text and tables in Markdown, safe for any content."""

import html
import re
from collections.abc import Iterable, Sequence

from cartesian_moe_jax.study.statistics import Difference, Summary

NOTHING = "-"
"""What a cell shows where nothing was measured."""


def table(header: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """Return a table; the first ``words`` columns hold words, all others hold numbers.

    Cells are Markdown: text from elsewhere must have gone through ``plain`` or ``code``.
    """
    rule = ["---" if column < words else "---:" for column in range(len(header))]
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, rule, *rows])


def plain(text: object) -> str:
    """Return text, on one line, that Markdown and HTML show as it is."""
    line = " ".join(str(text).split())
    return html.escape(re.sub(r"([\\`*_{}\[\]#|~!])", r"\\\1", line), quote=False)


def code(text: object) -> str:
    """Return a name or a value as code, on one line; it is cleared of what could end it."""
    return f"`{re.sub(r'[`|]', ' ', ' '.join(str(text).split()))}`"


def bullets(lines: Iterable[str]) -> str:
    """Return a list of Markdown lines."""
    return "\n".join(f"- {line}" for line in lines)


def number(value: int | float | None, form: str = ",.4f") -> str:
    """Return a number, or the sign for none."""
    return NOTHING if value is None else format(value, form)


def probability(p: float | None) -> str:
    """Return a p value, or the sign for none."""
    return plain("<0.001") if p is not None and p < 0.001 else number(p, ".3f")


def mean_and_sd(values: Summary, form: str = ".4f") -> str:
    """Return ``mean ± sd``, or the mean alone of a single value."""
    mean = format(values.mean, form)
    return mean if values.sd is None else f"{mean} ± {values.sd:{form}}"


def mean_and_range(values: Summary | None, form: str = "+.3f") -> str:
    """Return ``mean (low..high)``, the mean alone of a single value, or the sign for none."""
    if values is None:
        return NOTHING
    mean = format(values.mean, form)
    return mean if values.n == 1 else f"{mean} ({values.low:{form}}..{values.high:{form}})"


def interval(difference: Difference, form: str = "+.4f") -> str:
    """Return ``low to high``, or the sign for none."""
    if difference.low is None:
        return NOTHING
    return f"{difference.low:{form}} to {difference.high:{form}}"
