"""Which records are compared, and which cannot be."""

import dataclasses

import pytest

from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.study.comparison import check_comparable, compare
from tests.study import records


def test_records_are_sorted_into_what_they_are_good_for():
    study = compare(records.study(seeds=(1, 0)), ["smoe_share"])
    methods = ["dense", "smoe_share", "fine_grained", "top_p", "cartesian", "cartesian_noshared"]
    assert list(study.runs) == [*methods, records.THREE]
    assert all(list(by_seed) == [0, 1] for by_seed in study.runs.values())
    assert {run.purpose for run in study.tuning} == {"tuning"}
    assert len(study.tuning) == 9


def test_a_loss_that_is_no_number_counts_as_failed():
    run = records.compared("dense", 0, validation={"loss": float("nan")})
    bare = records.compared("top_p", 0, validation={})
    assert compare([run, bare], ["dense"]).runs == {}


def test_settings_that_differ_are_named_with_both_values():
    first, second = records.compared("dense", 0), records.compared("cartesian", 1)
    check_comparable([first, second, *records.tuning()])
    other = dataclasses.replace(second, setting=records.SETTING | {"steps": 7})
    with pytest.raises(UserError) as caught:
        check_comparable([first, other])
    message = str(caught.value)
    assert "\n" not in message
    for words in ("setting.steps", "6000 in comparison.dense.seed0", "7 in comparison.cartesian"):
        assert words in message
    without = {k: v for k, v in records.SETTING.items() if k != "corpus"}
    with pytest.raises(UserError, match=r"setting\.corpus .*missing"):
        check_comparable([first, dataclasses.replace(second, setting=without)])


def test_a_field_that_a_setting_is_older_than_had_its_default():
    old = records.compared("dense", 0)
    new = dataclasses.replace(old, seed=1, setting=records.SETTING | {"model.unroll": 1})
    check_comparable([old, new])
    check_comparable([new, old])
    other = dataclasses.replace(new, setting=records.SETTING | {"model.unroll": 2})
    with pytest.raises(UserError, match=r"setting\.model\.unroll .* 1 in .* 2 in"):
        check_comparable([old, other])


def test_one_run_is_not_counted_twice():
    with pytest.raises(UserError, match=r"comparison\.dense\.seed0 is there twice"):
        check_comparable([records.compared("dense", 0), records.compared("dense", 0)])
