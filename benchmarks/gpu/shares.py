"""How the time is shared out among parts: what comes first leaves its least to what comes later."""

from collections.abc import Sequence

from benchmarks.gpu.parts import Part

LEAST = 10.0
"""Seconds under which no part is begun: it would only start."""
SLACK = 10.0
"""Seconds that may be missing for all to be begun nevertheless: ending parts takes some."""


def share(part: Part, later: Sequence[Part], left: float, *, resumed: bool = False) -> float:
    """The seconds that a part gets of those that are left.

    Where these are too few for the least of all, the last parts are those that get nothing. What no
    part would need is for those that go on where they were (``resumed``: one was stopped already),
    and where there are none, for this one.
    """
    held, budget = 0.0, left - part.least + SLACK
    for other in later:
        budget -= other.least
        if budget < 0:
            break
        held += other.least
    waited_for = resumed or any(other.resumes for other in later)
    spare = 0.0 if waited_for else left - sum(other.seconds for other in later)
    return min(max(part.seconds, spare), left - held)
