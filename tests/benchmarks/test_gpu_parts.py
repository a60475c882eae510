"""The parts of the GPU benchmark, rehearsed on CPU: what they record, and what they find wrong."""

import dataclasses
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmarks.gpu import errors, legs, page, parity, parts, sizes, step
from benchmarks.gpu.context import Context
from benchmarks.gpu.record import Record, read
from benchmarks.gpu.sizes import FULL, REHEARSAL
from benchmarks.timing import Case
from cartesian_moe_jax.kernels import by_leg, timings, tuning
from cartesian_moe_jax.kernels.leg_trials import feed_forward_legs
from cartesian_moe_jax.kernels.relative_error import error_of
from tests.messages import message_of

ROWS = 64


@pytest.fixture
def context(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Context(REHEARSAL, Record(tmp_path / "part.json"), tmp_path, sys.executable)


def checked(context, leg, monkeypatch, **changes):
    """What parity says of one leg by kernels some of whose legs are changed."""
    right = by_leg.LEG_BACKENDS["triton"]
    wrong = {"triton": lambda block: changed(right(block), **changes)}
    monkeypatch.setattr(tuning, "TRIED", wrong)
    shape = next(s for s in feed_forward_legs(ROWS, 4, 64, 32, "float32") if s.leg == leg)
    with ThreadPoolExecutor(2) as pool:
        parity.begin_leg(pool, shape)(context.record)
    return context.record.measurements


def changed(matmul, **changes):
    legs = {name: change(getattr(matmul, name)) for name, change in changes.items()}
    return matmul._replace(**legs)


def test_a_right_kernel_passes(context, monkeypatch):
    found = checked(context, "to_weights", monkeypatch)
    assert [m["groups"] for m in found] == ["unaligned", "single rows, empty", "one hot"]
    assert all(m["result"] == "PASS" and m["worst"] < 1e-6 for m in found)


def test_a_kernel_that_is_wrong_in_one_row_fails(context, monkeypatch):
    """Of the whole array that is little: the worst row tells."""

    def wrong(forward):
        return lambda *operands: tuple(a.at[3, 5].add(0.05) for a in forward(*operands))

    found = checked(context, "forward", monkeypatch, forward=wrong)
    assert [m["result"] for m in found] == ["FAIL"] * 3
    assert all(m["whole"] < m["worst"] for m in found)
    (context.folder / "parity.json").write_text(context.record.file.read_text())
    assert page.anything_wrong(context.folder, [])
    assert "FAIL forward, float32 by triton 32x32x32" in page.summary(context.folder)


def test_what_experts_without_rows_get_must_be_zero(context, monkeypatch):
    def wrong(to_weights):
        return lambda *operands: to_weights(*operands) + 1e-9

    found = checked(context, "to_weights", monkeypatch, to_weights=wrong)
    of_empty = next(m for m in found if m["groups"] == "single rows, empty")
    assert (of_empty["worst"], of_empty["result"]) == ("inf", "FAIL")


def test_rows_of_no_group_must_enter_no_sum(context, monkeypatch):
    """They hold NaN, so that a kernel that multiplies them by zero is found."""

    def wrong(to_weights):
        return lambda rows, *others: to_weights(rows, *others) + 0 * rows.sum()

    found = checked(context, "to_weights", monkeypatch, to_weights=wrong)
    assert [m["result"] for m in found] == ["PASS", "FAIL", "FAIL"]


def test_a_kernel_of_ours_that_does_not_compile_fails(context, monkeypatch):
    def broken(*_):
        raise NotImplementedError("not on this chip")

    found = checked(context, "forward", monkeypatch, forward=lambda _: broken)
    assert {m["result"] for m in found} == {"FAIL"}
    assert found[0]["reason"] == "NotImplementedError: not on this chip"


def test_rounding_once_is_within_tolerance_and_tensor_float_is_not():
    import jax
    import jax.numpy as jnp

    exact = jax.random.normal(jax.random.key(0), (64, 128))
    rounded = error_of(exact.astype(jnp.bfloat16), exact)
    assert 1e-3 < rounded.worst < errors.TOLERANCES["bfloat16", "bfloat16"] / 3
    ten_bits = exact.astype(jnp.float16).astype(jnp.float32)
    assert error_of(ten_bits, exact).worst > errors.TOLERANCES["float32", "float32"]


@pytest.mark.parametrize("name", ["parity", "peaks", "layer", "decode"])
def test_a_part_in_rehearsal(name, tmp_path):
    parts.run_part(name, tmp_path, sys.executable, rehearse=True)
    found = read(tmp_path / f"{name}.json")
    assert found["rehearsal"] is True and found["measurements"]
    rows = page.table(name, found["measurements"])
    assert len(rows) > 1 and all(len(row) == len(rows[0]) for row in rows)
    assert not any(m.get("result") == "FAIL" for m in found["measurements"])


def test_legs_are_timed_once_and_kept_as_timings(context, monkeypatch):
    asked = []

    def measure(shape, backends):
        asked.append(shape)
        best = tuning.choices(shape, backends)[0]
        return [timings.Timing(shape, best, 2.0)], []

    monkeypatch.setattr(legs, "measure", measure)
    legs.run(context)
    assert len(asked) == 5, "the two legs to the weights are one where widths are equal"
    written = timings.read(context.folder / "cpu.json")
    assert [timing.shape for timing in written] == asked
    own = context.folder / "cache" / "cartesian_moe_jax" / "timings" / "cpu.json"
    assert timings.read(own) == written
    measured = context.record.measurements
    assert all({"dense_ms", "ragged_ms", "fastest", "ours_ms"} <= set(m) for m in measured)
    legs.run(context)
    assert len(asked) == 5 and len(context.record.measurements) == 5
    assert timings.read(own) == written


def test_what_xla_expands_comes_after_what_others_need_and_is_tried_once(context, monkeypatch):
    """As on a GPU whose memory it takes, with all of the process."""
    grids = [sizes.Experts(64, experts, 64, 64) for experts in (2, 4, 8, 16)]
    small = dataclasses.replace(context.sizes, legs=tuple(grids))
    context = context._replace(sizes=small)
    monkeypatch.setattr(legs, "measure", lambda shape, _: ([], []))

    def by(_, matmul, shape):
        if matmul is legs.RAGGED:
            raise SystemExit
        return {"ms": 1.0}

    monkeypatch.setattr(legs, "_by", by)
    expanded = small.ragged_legs
    assert expanded == (grids[1],)
    for ended in range(5):
        with pytest.raises(SystemExit):
            legs.run(context)
        found = context.record.measurements
        assert {m["experts"] for m in found} == {2, 4, 8}, "the fourth comes after"
        assert sum("ragged_none" in m for m in found) == ended + 1
    legs.run(context)
    assert {m["experts"] for m in context.record.measurements} == {2, 4, 8, 16}


def test_the_full_grid_holds_what_tune_measures_and_the_important_first():
    from cartesian_moe_jax.kernels.tune_command import Grid

    measured = set(legs._legs(FULL.legs, FULL.dtype))
    own = set(feed_forward_legs(65536, 16, 768, 1536, "bfloat16"))  # of the training step
    assert measured == set(Grid().shapes()) | own
    assert set(FULL.ragged_legs) <= set(FULL.legs[: legs.FIRST])
    assert FULL.legs[0] == sizes.Experts(32768, 64, 2048, 1024)


def test_without_a_gpu_and_no_rehearsal_a_line_says_so(tmp_path):
    words = message_of(parts.run_part, "peaks", tmp_path, sys.executable, rehearse=False)
    assert words == f"{parts.NO_GPU} but a cpu; --rehearse runs there"


def test_of_batches_the_first_that_fits_is_timed(context, monkeypatch):
    def step_case(name, config):
        needed = {8: 2e9, 4: 1e9}.get(config.training.batch_size, 0)
        return Case(name, lambda: None, needed, 0.5, flops=1e6), None

    monkeypatch.setattr(step, "step_case", step_case)
    monkeypatch.setattr(step, "memory_limit", lambda: 1e9)
    step.run(context._replace(sizes=dataclasses.replace(REHEARSAL, batches=(8, 4, 2, 1))))
    assert context.record.content["notes"][:2] == [
        "base cartesian, batch 8: it would need 2 GB beside its state",
        "base cartesian, batch 4: it would need 1 GB beside its state",
    ]
    model, twin = context.record.measurements
    assert (model["batch"], twin["batch"], twin["what"]) == (2, 2, "dense twin")
    assert model["tokens_per_s"] == pytest.approx(1e3 * 2 * 16 / model["ms"])
