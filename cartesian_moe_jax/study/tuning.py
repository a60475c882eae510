"""Which learning rates are tried for a method, and which is taken."""

import itertools
import math
from collections.abc import Mapping
from typing import NamedTuple

from cartesian_moe_jax.config import StudyConfig
from cartesian_moe_jax.errors import UserError


class Rates(NamedTuple):
    """What is tuned, as fields of ``config.optimizer``."""

    learning_rate: float
    expert_rate: float = 1.0


class Grid(NamedTuple):
    """What is tried: learning rates first, then multipliers for experts at the best of them."""

    learning_rates: tuple[float, ...]
    expert_rates: tuple[float, ...]
    extensions: int
    first_expert_rate: float = 1.0
    """The multiplier with which the learning rates are tried."""

    @property
    def size(self) -> int:
        """Trials without extensions; 0 where there is nothing to choose."""
        trials = len(self.learning_rates) + len({*self.expert_rates} - {self.first_expert_rate})
        return trials if trials > 1 else 0


Losses = Mapping[Rates, float]
"""Validation loss of the trials so far; infinite where one failed."""


class Given(NamedTuple):
    """Rates that a variant names, which are not tuned; None: it does not name it."""

    learning_rate: float | None = None
    expert_rate: float | None = None


TUNED = Given()


def grid_of(study: StudyConfig, given: Given = TUNED, *, has_experts: bool) -> Grid:
    """Read the grid of a study; raises UserError for what is no rising list of positive numbers.

    Of a rate that is given, that value alone is in the grid.
    """
    learning = numbers(study.learning_rates, "config.study.learning_rates")
    expert = numbers(study.expert_rates, "config.study.expert_rates")
    if given.learning_rate is not None:
        learning = (given.learning_rate,)
    if not has_experts:
        return Grid(learning, (1.0,), study.extensions)
    if given.expert_rate is not None:
        return Grid(learning, (given.expert_rate,), study.extensions, given.expert_rate)
    return Grid(learning, expert, study.extensions)


def next_trial(grid: Grid, losses: Losses) -> Rates | None:
    """Return the rates to try next, or None when enough has been tried.

    With one learning rate and no multiplier there is nothing to choose, and nothing is tried.
    """
    if not grid.size:
        return None
    wanted = [Rates(rate, grid.first_expert_rate) for rate in grid.learning_rates]
    missing = [rates for rates in wanted if rates not in losses]
    return missing[0] if missing else _extension(grid, losses) or _multiplier(grid, losses)


def best(grid: Grid, losses: Losses) -> Rates:
    """Return the rates of the lowest loss; raises UserError if all trials failed."""
    if not losses:
        return Rates(grid.learning_rates[0], grid.first_expert_rate)
    found = min(losses, key=lambda rates: (losses[rates], rates))
    if math.isinf(losses[found]):
        raise UserError("every learning rate that was tried failed")
    return found


def _line(grid: Grid, losses: Losses) -> list[Rates]:
    return sorted(rates for rates in losses if rates.expert_rate == grid.first_expert_rate)


def _extension(grid: Grid, losses: Losses) -> Rates | None:
    """Return the next learning rate beyond the end at which the best lies."""
    line = {rates.learning_rate: losses[rates] for rates in _line(grid, losses)}
    beyond = _beyond(line, len(grid.learning_rates) + grid.extensions)
    return None if beyond is None else Rates(beyond, grid.first_expert_rate)


def _multiplier(grid: Grid, losses: Losses) -> Rates | None:
    """Return the next multiplier at the best learning rate, also beyond an end."""
    top = min(_line(grid, losses), key=lambda rates: losses[rates])
    wanted = [top._replace(expert_rate=rate) for rate in grid.expert_rates]
    missing = [rates for rates in wanted if rates not in losses]
    if missing:
        return missing[0]
    column = {r.expert_rate: losses[r] for r in losses if r.learning_rate == top.learning_rate}
    beyond = _beyond(column, len({grid.first_expert_rate, *grid.expert_rates}) + grid.extensions)
    return None if beyond is None else top._replace(expert_rate=beyond)


def _beyond(line: Mapping[float, float], most: int) -> float | None:
    """Return the value beyond the end of a line at which its best lies, at the same ratio.

    ``line`` is value -> loss. None where the best lies within, or failed, or ``most`` were tried.
    """
    values = sorted(line)
    if len(values) < 2 or len(values) >= most:
        return None
    top = min(values, key=lambda value: line[value])
    if top not in (values[0], values[-1]) or math.isinf(line[top]):
        return None
    neighbour = values[1] if top == values[0] else values[-2]
    return float(f"{top**2 / neighbour:.4g}")


def numbers(text: str, field: str) -> tuple[float, ...]:
    """Read positive numbers in rising order, joined by commas; raises UserError for others."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    rising = all(a < b for a, b in itertools.pairwise(found))
    if not found or not rising or not all(0 < number < math.inf for number in found):
        raise UserError(
            f"{field}={text!r} is not allowed: rising positive numbers joined by commas"
        )
    return found
