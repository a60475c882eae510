"""Which rates are tried, and which is taken."""

import math

import pytest

from cartesian_moe_jax.config import StudyConfig
from cartesian_moe_jax.study.tuning import Given, Grid, Rates, best, grid_of, next_trial
from tests.messages import message_of

GRID = Grid((1e-3, 2e-3, 4e-3), (1.0, 2.0), extensions=2)


def tried(grid, loss_of):
    losses = {}
    while (rates := next_trial(grid, losses)) is not None:
        assert rates not in losses
        losses[rates] = loss_of(rates)
    return losses


def valley(lowest):
    return lambda rates: abs(math.log2(rates.learning_rate / lowest)) + rates.expert_rate


def test_the_grid_then_multipliers_at_its_best():
    grid = GRID._replace(extensions=0)
    losses = tried(grid, valley(2e-3))
    assert list(losses) == [Rates(1e-3), Rates(2e-3), Rates(4e-3), Rates(2e-3, 2.0)]
    assert best(grid, losses) == Rates(2e-3)


def test_multipliers_grow_beyond_an_end_too():
    def loss(rates):
        return valley(2e-3)(rates._replace(expert_rate=0)) + abs(math.log2(rates.expert_rate) - 2)

    losses = tried(GRID, loss)
    assert [r.expert_rate for r in sorted(losses) if r.learning_rate == 2e-3] == [1, 2, 4, 8]
    assert best(GRID, losses) == Rates(2e-3, 4.0)


@pytest.mark.parametrize("lowest, beyond", [(8e-3, [8e-3, 16e-3]), (0.5e-3, [0.5e-3, 0.25e-3])])
def test_the_grid_grows_beyond_an_end_until_the_best_lies_within(lowest, beyond):
    losses = tried(GRID, valley(lowest))
    assert [r.learning_rate for r in losses if r.expert_rate == 1] == pytest.approx(
        [*GRID.learning_rates, *beyond]
    )
    assert best(GRID, losses).learning_rate == pytest.approx(lowest)


def test_the_grid_grows_no_further_than_it_may():
    losses = tried(GRID, valley(1.0))
    assert max(losses).learning_rate == pytest.approx(16e-3)


def test_a_failed_trial_is_not_taken_and_the_grid_does_not_grow_beyond_it():
    def fails(rates):
        return math.inf if rates.learning_rate > 1e-3 else 1e-3 / rates.learning_rate

    losses = tried(GRID, fails)
    assert best(GRID, losses).learning_rate == 1e-3
    # Below, it grew once: at that end the best lay.
    assert [r.learning_rate for r in sorted(losses) if r.expert_rate == 1] == pytest.approx(
        [0.5e-3, *GRID.learning_rates]
    )


def test_all_failed():
    losses = tried(GRID, lambda rates: math.inf)
    assert {rates.learning_rate for rates in losses} == set(GRID.learning_rates)
    assert message_of(best, GRID, losses) == "every learning rate that was tried failed"


def test_nothing_is_tried_where_nothing_is_to_be_chosen():
    grid = Grid((3e-3,), (1.0,), extensions=2)
    assert tried(grid, valley(1e-3)) == {} and best(grid, {}) == Rates(3e-3)


STUDY = StudyConfig(learning_rates="1e-3,2e-3", expert_rates="1,2,4", extensions=2)


def test_a_given_multiplier_is_kept_while_learning_rates_are_tried():
    grid = grid_of(STUDY, Given(expert_rate=3.0), has_experts=True)
    losses = tried(grid, valley(8e-3))
    assert {rates.expert_rate for rates in losses} == {3.0}
    assert [r.learning_rate for r in losses] == pytest.approx([1e-3, 2e-3, 4e-3, 8e-3])
    assert best(grid, losses) == Rates(8e-3, 3.0) and grid.size == 2


def test_a_given_learning_rate_is_kept_while_multipliers_are_tried():
    grid = grid_of(STUDY, Given(learning_rate=5e-3), has_experts=True)
    losses = tried(grid, lambda rates: -rates.expert_rate)
    assert list(losses) == [Rates(5e-3, x) for x in (1.0, 2.0, 4.0, 8.0, 16.0)]


def test_where_both_are_given_nothing_is_tried():
    grid = grid_of(STUDY, Given(5e-3, 2.0), has_experts=True)
    assert tried(grid, valley(1e-3)) == {} and best(grid, {}) == Rates(5e-3, 2.0)


def test_equal_losses_take_the_lowest_rate():
    assert best(GRID, {Rates(4e-3): 1.0, Rates(2e-3): 1.0}) == Rates(2e-3)


def test_a_model_without_experts_has_no_multiplier():
    study = StudyConfig(learning_rates="1e-3,2e-3", expert_rates="1,2,4")
    assert grid_of(study, has_experts=False).size == 2
    assert grid_of(study, has_experts=True).size == 4


@pytest.mark.parametrize("text", ["", "a", "2e-3,1e-3", "0,1", "1,,2", "-1", "1e999", "nan"])
def test_wrong_grids_are_refused(text):
    words = message_of(grid_of, StudyConfig(learning_rates=text), has_experts=True)
    assert f"config.study.learning_rates={text!r} is not allowed" in words
