"""Schedules against optax's, and against numbers worked out by hand."""

import jax
import numpy as np
import optax
import pytest

from cartesian_moe_jax.config import OptimizerConfig
from cartesian_moe_jax.training.optimizer import make_optimizer
from cartesian_moe_jax.training.schedule import (
    SCHEDULES,
    fork_steps,
    learning_rate_schedule,
    steps_before_decay,
)
from tests.messages import message_of

FIELDS = {
    "cosine": {"final_learning_rate": 0.1},
    "linear": {"final_learning_rate": 0.1},
    "constant": {},
    "wsd": {"final_learning_rate": 0.1, "decay_steps": 40},
}
"""How each schedule ends, of runs of 110 steps with 10 of warm-up."""

OF_OPTAX = {
    "cosine": optax.warmup_cosine_decay_schedule(0.0, 1.0, 10, 110, 0.1),
    "constant": optax.warmup_constant_schedule(0.0, 1.0, 10),
}


def config_of(name, **fields):
    given = {"learning_rate": 1e-3, "warmup_steps": 10} | FIELDS[name] | fields
    return OptimizerConfig(schedule=name, **given)


def rates(name, steps=110, **fields):
    rate = learning_rate_schedule(config_of(name, **fields), steps)
    return np.array(jax.vmap(rate)(np.arange(steps + 1)))


@pytest.mark.parametrize("name", OF_OPTAX)
def test_rates_are_those_of_optax(name):
    theirs = jax.vmap(OF_OPTAX[name])(np.arange(111))
    np.testing.assert_array_equal(rates(name), np.float32(1e-3) * np.float32(theirs))


def test_a_line_leads_to_the_final_rate():
    by_hand = np.interp(np.arange(111), [0, 10, 110], [0.0, 1e-3, 1e-4])
    np.testing.assert_allclose(rates("linear"), by_hand, rtol=1e-5)


def test_stable_then_decay_as_one_minus_a_root():
    at = {0: 0.0, 5: 5e-4, 10: 1e-3, 69: 1e-3, 70: 1e-3, 110: 1e-4}
    # A quarter of the decay: a half of the way.
    at |= {80: 1e-4 + 9e-4 / 2, 100: 1e-4 + 9e-4 * (1 - 0.75**0.5)}
    np.testing.assert_allclose(rates("wsd")[list(at)], list(at.values()), rtol=1e-5)


def test_a_decay_may_begin_behind_the_warm_up_and_be_one_step_long():
    whole = rates("wsd", decay_steps=100, final_learning_rate=0.0)
    assert whole.argmax() == 10 and (np.diff(whole[10:]) < 0).all() and whole[-1] == 0
    one = rates("wsd", decay_steps=1, final_learning_rate=0.0)
    assert one[109] == np.float32(1e-3) and one[110] == 0


@pytest.mark.parametrize("name", SCHEDULES)
def test_without_warmup_the_first_step_has_the_peak_rate(name):
    assert rates(name, warmup_steps=0)[0] == np.float32(1e-3)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [60, 110, 300])
def test_until_the_decay_all_schedules_are_the_same(name, steps):
    count = steps_before_decay(config_of(name), steps)
    assert 10 <= count <= steps
    np.testing.assert_array_equal(rates(name, steps)[:count], rates("constant", 400)[:count])
    if count < steps:  # behind it, by one step at most, they are not
        assert rates(name, steps)[count + 1] < 1e-3


def test_runs_fork_before_a_decay_that_may_be_moved():
    forks = {name: fork_steps(config_of(name), 110) for name in SCHEDULES}
    assert forks == {"cosine": (), "linear": (), "constant": (), "wsd": (70,)}
    assert fork_steps(config_of("wsd", warmup_steps=0, decay_steps=110), 110) == ()


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_rate_in_place_of_the_peak_may_be_an_argument(name):
    rate = jax.jit(lambda count, peak: learning_rate_schedule(config_of(name), 110, peak)(count))
    np.testing.assert_allclose(rate(90, 0.5), 500 * rates(name)[90], rtol=1e-6)


@pytest.mark.parametrize(
    "name, fields, words",
    [
        ("cosine", {"warmup_steps": 110}, "warmup_steps=110 is not allowed: below config.training"),
        ("constant", {"warmup_steps": 111}, "warmup_steps=111 is not allowed: below config.train"),
        ("wsd", {"decay_steps": 101}, "decay_steps=101 is not allowed: 1 to "),
        ("wsd", {"decay_steps": 0}, "decay_steps=0 is not allowed: 1 to "),
        ("cosine", {"decay_steps": 5}, "decay_steps=5 is not allowed: config.optimizer.schedule="),
        ("constant", {"decay_steps": 5}, "decay_steps=5 is not allowed: "),
        ("constant", {"final_learning_rate": 0.1}, "rate=0.1 is not allowed: config.optimizer.sch"),
    ],
)
def test_what_does_not_fit_is_one_line(name, fields, words):
    assert words in message_of(make_optimizer, config_of(name, **fields), 110)


def test_an_unknown_schedule_is_one_line_that_lists_all():
    message = message_of(make_optimizer, OptimizerConfig(schedule="step"), 5000)
    assert (
        "config.optimizer.schedule='step' is unknown: allowed are constant, cosine, lin" in message
    )
