"""What the paper (arXiv 2410.16077) reports, by this project's names of the methods.

Perplexities on the Pile's validation set after 100 billion tokens.
"""

from collections.abc import Mapping
from typing import NamedTuple

TOKENS = 100_000_000_000
"""Trained on, in every run of tables 1, 3 and 4."""


class Sizes(NamedTuple):
    """Perplexity of a method at the paper's two sizes; None: not reported."""

    base: float | None
    large: float | None


class Disabled(NamedTuple):
    """Perplexity as trained, and with the top-1 expert of every token disabled."""

    perplexity: float
    top_1_disabled: float


TABLE_1: Mapping[str, Sizes] = {
    "dense": Sizes(8.55, 6.95),
    "smoe_share": Sizes(7.37, 6.13),
    "smoe_top3": Sizes(7.40, 6.18),
    "hash": Sizes(7.47, 6.28),
    "fine_grained": Sizes(7.33, 6.16),
    "top_p": Sizes(7.41, 6.14),
    "cartesian": Sizes(7.19, 6.08),
}
"""MoE-Base (842M parameters) and MoE-Large (2.88B); dense: the 162M and 468M models beside them."""

TABLE_3: Mapping[str, float] = {
    "smoe_top3": 6.18,
    "fine_grained": 6.16,
    "cartesian": 6.08,
    "cartesian_noshared": 6.15,
}
"""Large, with and without the shared expert."""

TABLE_4: Mapping[str, Disabled] = {
    "smoe_share": Disabled(6.13, 7568.85),
    "smoe_top3": Disabled(6.18, 847.46),
    "fine_grained": Disabled(6.16, 3095.44),
    "top_p": Disabled(6.14, 84.42),
    "cartesian": Disabled(6.08, 27.72),
}
"""Large."""
