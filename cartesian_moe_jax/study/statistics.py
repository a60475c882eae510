"""What a few paired seeds say: means, intervals, and the gap that they could find."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

LEVEL = 0.05
"""Of a test; intervals are of 1 - LEVEL."""
POWER = 0.8


class Summary(NamedTuple):
    """Some values: their mean, range, number, and standard deviation (of a sample; None: n < 2)."""

    mean: float
    sd: float | None
    low: float
    high: float
    n: int


class Difference(NamedTuple):
    """The mean of paired differences, with the interval of the paired t test.

    ``sd`` (of the differences), ``low``, ``high`` and ``p`` are None for fewer than two pairs.
    """

    mean: float
    sd: float | None
    low: float | None
    high: float | None
    n: int
    p: float | None
    """Of the two-sided test that there is no difference."""

    @property
    def verdict(self) -> str:
        """Return lower or higher, or ``not told apart`` where the interval holds 0 or is none."""
        return direction(self.mean, self.low is not None and not self.low <= 0 <= self.high)


def direction(mean: float, told_apart: bool) -> str:
    """Return a verdict in words."""
    if not told_apart:
        return "not told apart"
    return "lower" if mean < 0 else "higher"


class Pooled(NamedTuple):
    """A standard deviation within groups, and the degrees of freedom that it rests on."""

    sd: float
    degrees: int


def summary(values: Iterable[float]) -> Summary:
    """Sum up at least one value; raises ValueError for none."""
    data = [float(value) for value in values]
    if not data:
        raise ValueError("there is nothing to sum up")
    sd = float(np.std(data, ddof=1)) if len(data) > 1 else None
    return Summary(float(np.mean(data)), sd, min(data), max(data), len(data))


def paired_difference(first: Mapping[int, float], second: Mapping[int, float]) -> Difference | None:
    """Return first minus second over the keys (seeds) of both; None if they share none."""
    from scipy import stats

    shared = sorted(set(first) & set(second))
    if not shared:
        return None
    mean, sd, _, _, n = summary(first[seed] - second[seed] for seed in shared)
    if sd is None:
        return Difference(mean, None, None, None, n, None)
    error = sd / math.sqrt(n)
    half = float(stats.t.ppf(1 - LEVEL / 2, n - 1)) * error
    # Equal differences in all pairs have no spread: none is 0, or all are far from it.
    shift = abs(mean) / error if error else math.inf if mean else 0.0
    return Difference(mean, sd, mean - half, mean + half, n, float(2 * stats.t.sf(shift, n - 1)))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return Holm's adjusted p values.

    Where those below ``LEVEL`` are called different, any false call among all has at most that
    probability, however they depend on each other.
    """
    adjusted: dict[str, float] = {}
    highest = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = highest
    return adjusted


def pooled_sd(deviations: Iterable[tuple[float | None, int]]) -> Pooled | None:
    """Pool (standard deviation, n) of groups by their degrees of freedom.

    None if no group has two values.
    """
    known = [(sd, n - 1) for sd, n in deviations if sd is not None]
    degrees = sum(freedom for _, freedom in known)
    if not degrees:
        return None
    variance = sum(sd**2 * freedom for sd, freedom in known) / degrees
    return Pooled(math.sqrt(variance), degrees)


def smallest_gap(sd: float, n: int) -> float:
    """Return the true mean difference that n pairs find with probability ``POWER``.

    ``sd`` is that of the paired differences, and has the unit of the answer. The test is the
    two-sided paired t test at ``LEVEL``. Raises ValueError for fewer than two pairs.
    """
    from scipy import optimize, stats

    if n < 2:
        raise ValueError(f"n={n} pairs have no standard deviation")
    freedom = n - 1
    critical = stats.t.ppf(1 - LEVEL / 2, freedom)

    def excess(shift: float) -> float:
        # Of a gap that large, almost nothing is found in the wrong direction.
        return float(stats.nct.sf(critical, freedom, shift)) - POWER

    shift = optimize.brentq(excess, 0.1, 2 * critical + 2)
    return float(shift) * sd / math.sqrt(n)


def relative_load(load: Sequence[float]) -> Float[np.ndarray, "experts"]:
    """Return each expert's load as a multiple of the even one."""
    data = np.asarray(load, np.float64)
    return data / data.mean()


def effective_number(shares: Float[np.ndarray, "..."]) -> float:
    """Return exp(entropy) of shares that sum to 1: of n equal ones n, of a single one 1."""
    used = shares[shares > 0]
    return float(np.exp(-np.sum(used * np.log(used))))


def independent_number(shares: Float[np.ndarray, "first second"]) -> float:
    """Return what ``effective_number`` would be if the second choice ignored the first.

    It is that of the product of both marginals, and never less.
    """
    return effective_number(shares.sum(1)) * effective_number(shares.sum(0))
