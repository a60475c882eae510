"""What `tune` measures, refuses and keeps."""

import contextlib

import jax
import jax.numpy as jnp
import pytest

from cartesian_moe_jax.kernels import by_leg, timings, tune_command, tuning
from cartesian_moe_jax.kernels.blocks import LegShape
from cartesian_moe_jax.kernels.plain import PLAIN
from cartesian_moe_jax.kernels.timings import Choice
from cartesian_moe_jax.kernels.tune_command import Grid, run_tune
from tests.messages import message_of

SHAPE = LegShape("to_weights", 40, 2, 64, 128, 1, "bfloat16")


def broken(*_):
    raise NotImplementedError("not on this chip\nat all")


OTHERS = {
    "wrong": lambda _: PLAIN._replace(to_weights=lambda *a: 1.1 * PLAIN.to_weights(*a)),
    "nan": lambda _: PLAIN._replace(to_weights=lambda *a: jnp.nan * PLAIN.to_weights(*a)),
    "broken": lambda _: PLAIN._replace(to_weights=broken),
    "plain": lambda _: PLAIN,
}


def of_worst_rows(forward):
    """One row of all is zeros: 2% of the norm of 2,500 rows."""
    return lambda *operands: tuple(array.at[3].set(0) for array in forward(*operands))


def multiplied_by_zero(to_weights):
    """Rows of no group enter sums, with a weight of zero: 0 x NaN is NaN."""
    return lambda rows, *others: to_weights(rows, *others) + 0 * rows.sum()


@pytest.mark.parametrize(
    ("leg", "wrong", "words"),
    [
        ("forward", of_worst_rows, "wrong: wrong by 1"),
        (
            "to_weights",
            multiplied_by_zero,
            "wrong: wrong by inf where groups are empty and rows in none",
        ),
    ],
)
def test_a_kernel_that_is_wrong_in_few_rows_or_with_some_groups_is_refused(
    leg, wrong, words, monkeypatch
):
    kernel = PLAIN._replace(**{leg: wrong(getattr(PLAIN, leg))})
    monkeypatch.setattr(tuning, "TRIED", {**tuning.TRIED, "wrong": lambda _: kernel})
    shape = LegShape(leg, 3000, 5, 64, 64, 1, "float32")
    found, failures = tuning.measure(shape, ("triton", "wrong"))
    assert [timing.choice.backend for timing in found] == ["triton"]
    assert [failure.line() for failure in failures] == [words]


def test_every_run_of_a_compiled_kernel_is_watched(monkeypatch):
    seen = []

    @contextlib.contextmanager
    def running(choice):
        seen.append(choice.backend)
        yield
        seen.append("ended")

    monkeypatch.setattr(tuning, "TRIED", {**tuning.TRIED, **OTHERS})
    programs = tuning.compile_choices(SHAPE, ("nan", "broken", "plain"))
    assert not seen
    tuning.measure_compiled(programs, running)
    assert [c.backend for c in programs.by_choice] == ["triton", "nan", "broken", "plain"]
    checked_timed = ["triton", "nan", "plain"], ["triton", "plain"], ["triton", "plain"]
    assert seen == [word for each in checked_timed for name in each for word in (name, "ended")]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """As if there were a GPU, whose kernels are interpreted; a home of one's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tune_command, "target_platform", lambda: "gpu")
    for module in (tune_command, by_leg):
        monkeypatch.setattr(module, "device_kind", lambda: "NVIDIA Test")
    timings.timings_of.cache_clear()
    yield tmp_path
    timings.timings_of.cache_clear()


def test_all_choices_are_measured_and_the_wrong_ones_refused(monkeypatch):
    monkeypatch.setattr(tuning, "TRIED", {**tuning.TRIED, **OTHERS})
    found, failures = tuning.measure(SHAPE, ("triton", *OTHERS))
    assert {t.choice.backend for t in found} == {"triton", "plain"}
    assert all(t.shape == SHAPE and t.ms > 0 for t in found)
    assert [failure.line() for failure in failures] == [
        "wrong: wrong by 0.1",
        "nan: wrong by inf",
        "broken: NotImplementedError: not on this chip",
    ]


def test_what_is_measured_is_kept_and_taken(here, capsys):
    grid = Grid(rows=(40,), experts=(2,), d_model=(64,), d_expert=(128,))
    run_tune(grid, None)
    file = timings.users_file("NVIDIA Test")
    printed = capsys.readouterr().out
    assert f"kept in {file}: used from now on" in printed
    assert printed.count("triton") > 6, "a line for each leg"
    kept = timings.read(file)
    assert {t.shape for t in kept} == set(grid.shapes())
    best = min((t for t in kept if t.shape == SHAPE), key=lambda t: t.ms)
    assert by_leg.choose(SHAPE, by_leg.available()) == best.choice


def test_a_stop_loses_nothing_and_new_measurements_replace_old_ones(here, monkeypatch):
    grid = Grid(rows=(40,), experts=(2,), d_model=(64,), d_expert=(128,))
    first, second = list(grid.shapes())[:2]
    results = {first: [timings.Timing(first, Choice("plain"), 2.0)]}
    monkeypatch.setattr(tune_command, "measure", lambda shape, _: (results[shape], []))
    file = here / "mine.json"
    with pytest.raises(KeyError):
        run_tune(grid, file)
    assert timings.read(file) == tuple(results[first])
    results = {shape: [timings.Timing(shape, Choice("plain"), 1.0)] for shape in grid.shapes()}
    run_tune(grid, file)
    kept = timings.read(file)
    assert len(kept) == 6 and {t.ms for t in kept} == {1.0}
    assert second in {t.shape for t in kept}
    assert not timings.users_file("NVIDIA Test").exists()


def test_a_shape_that_does_not_fit_costs_no_other(here, monkeypatch, capsys):
    grid = Grid(rows=(40,), experts=(2,), d_model=(64,), d_expert=(128,))
    large, *others = grid.shapes()

    def measured(shape, _):
        if shape == large:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nmore of it")
        return [timings.Timing(shape, Choice("plain"), 1.0)], []

    monkeypatch.setattr(tune_command, "measure", measured)
    run_tune(grid, here / "mine.json")
    assert [t.shape for t in timings.read(here / "mine.json")] == others
    said = capsys.readouterr().out
    assert "forward 40 2 64 128 2 bfloat16: JaxRuntimeError: RESOURCE_EXHAUSTED" in said
    assert "more of it" not in said


def test_without_a_gpu():
    assert jax.default_backend() == "cpu"
    message = message_of(run_tune, Grid(), None)
    assert message == "tune measures kernels for GPUs, and this is a cpu"
