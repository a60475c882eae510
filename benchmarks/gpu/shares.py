"""How the time is shared out among parts: what comes first leaves its least to what comes later."""

from collections.abc import Sequence

from benchmarks.gpu.parts import Part

LEAST = 10.0
"""Seconds under which no part is begun: it would only start."""
SLACK = 10.0
"""Seconds that may be missing for all to be begun nevertheless: ending parts takes some."""


def share(part: Part, later: Sequence[Part], left: float) -> float:
    """The seconds that a part gets of those that are left.

    Where these are too few for the least of all, the last parts are those that get nothing.
    """
    held, budget = 0.0, left - part.least + SLACK
    for other in later:
        budget -= other.least
        if budget < 0:
            break
        held += other.least
    return min(part.seconds, left - held)
