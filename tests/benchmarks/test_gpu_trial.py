"""The trial of the Hopper kernels: what it finds, and what its record says when it is stopped."""

import sys

import pytest

from benchmarks.gpu import trial, trial_in_turns
from benchmarks.gpu.context import Context
from benchmarks.gpu.record import Record, read
from benchmarks.gpu.sizes import FULL, REHEARSAL
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.kernels.blocks import Block
from cartesian_moe_jax.kernels.leg_trials import compile_run, feed_forward_legs, operands, run_of
from cartesian_moe_jax.kernels.plain import PLAIN
from cartesian_moe_jax.kernels.timings import Choice
from cartesian_moe_jax.kernels.tuning import Programs

CHOICE = Choice("hopper", Block(128, 64, 128, 8, 3))
NAME = "hopper 128x64x128 w8 s3"


@pytest.fixture
def context(tmp_path, monkeypatch):
    """As on a Hopper GPU, whose kernels are the plain loop."""
    monkeypatch.setattr(trial, "available", lambda: ("triton", "hopper"))
    monkeypatch.setattr(trial, "compile_choices", programs_of)
    return Context(REHEARSAL, Record(tmp_path / "trial.json"), tmp_path, sys.executable)


def programs_of(shape, backends, run=None):
    assert backends == ("hopper",)
    plain = compile_run(run_of(shape, PLAIN), operands(shape))
    return Programs(shape, {CHOICE: run or plain}, plain)


def test_it_is_of_one_leg_of_each_kind(context):
    legs = trial.legs(context._replace(sizes=FULL))
    kinds = [(shape.leg, shape.products) for shape in legs]
    assert kinds == [("forward", 2), ("to_rows", 1), ("to_rows", 2), ("to_weights", 1)]
    assert set(legs) <= set(feed_forward_legs(*FULL.checked[0], FULL.dtype))


def test_right_kernels_are_timed(context):
    trial.run(context)
    assert [m["by"] for m in context.record.measurements] == [NAME] * 4
    kept = read(context.record.file)
    assert kept["running"] == "" and "failed" not in kept


def test_those_in_turns_are_tried_apart(context, monkeypatch):
    asked = []

    def compile_choices(shape, backends):
        asked.append(backends)
        return programs_of(shape, ("hopper",))

    monkeypatch.setattr(trial, "available", lambda: ("triton", "hopper_in_turns"))
    monkeypatch.setattr(trial, "compile_choices", compile_choices)
    trial.run(context)
    assert not asked
    trial_in_turns.run(context)
    assert asked == [("hopper_in_turns",)] * 4


def test_what_fails_is_kept_at_once_and_ends_it(context, monkeypatch):
    def compile_choices(shape, backends):
        return programs_of(shape, backends, "not here" if shape.products == 1 else None)

    monkeypatch.setattr(trial, "compile_choices", compile_choices)
    with pytest.raises(UserError, match=f"^2 kernels are wrong or do not run: {NAME}: not here$"):
        trial.run(context)
    assert read(context.record.file)["failed"] == [f"{NAME}: not here"] * 2
    assert [m["products"] for m in context.record.measurements] == [2, 2]


def test_a_kernel_that_does_not_end_is_named(context, monkeypatch):
    seen = []

    def hang(*_):
        seen.append(read(context.record.file)["running"])
        raise KeyboardInterrupt

    monkeypatch.setattr(trial, "compile_choices", lambda *given: programs_of(*given, hang))
    with pytest.raises(KeyboardInterrupt):
        trial.run(context)
    assert seen == [f"forward x2 by {NAME}"]


def test_all_legs_are_compiled_before_any_runs(context, monkeypatch):
    compiled = []

    def compile_choices(shape, backends):
        compiled.append(shape)
        assert "running" not in read(context.record.file)
        return programs_of(shape, backends)

    monkeypatch.setattr(trial, "compile_choices", compile_choices)
    trial.run(context)
    assert sorted(compiled) == sorted(trial.legs(context))
