"""What measurements of a GPU are relative to: the machine's own rates, of series as long."""

import math
import sys

import pytest

from benchmarks.gpu import page, peaks, rates
from benchmarks.gpu.context import Context
from benchmarks.gpu.rates import Rates
from benchmarks.gpu.record import Record
from benchmarks.gpu.sizes import REHEARSAL
from cartesian_moe_jax.kernels.blocks import LegShape
from cartesian_moe_jax.kernels.leg_trials import SERIES

HERE = {"device": "NVIDIA Test", "rehearsal": False}
H200 = Rates({0.5: 702.0}, 4262.0)
"""As measured."""


@pytest.fixture
def context(tmp_path):
    return Context(REHEARSAL, Record(tmp_path / "legs.json", **HERE), tmp_path, sys.executable)


def keep(folder, by_series, copy=2000.0, **changes):
    record = Record(folder / "peaks.json", **HERE | changes)
    for seconds, tflops in by_series.items():
        record.add(what="matmul", ms_per_series=1e3 * seconds, tflops=tflops)
    record.add(what="copy", ms_per_series=500.0, gigabytes_per_s=copy)


def test_a_share_is_of_the_peak_in_series_as_long(context):
    keep(context.folder, {0.03: 8.0, 0.5: 4.0})
    assert context.rate(1e9, 1.0, 0.5) == {"tflops": 1.0, "peak_share": 0.25}
    assert context.rate(1e9, 1.0, 0.02) == {"tflops": 1.0, "peak_share": 0.125}
    assert not context.record.content["notes"]


@pytest.mark.parametrize("changes", [{"device": "NVIDIA Other"}, {"rehearsal": True}, None])
def test_there_is_none_of_another_device(changes, context):
    if changes:
        keep(context.folder, {0.03: 8.0}, **changes)
    assert set(context.rate(1e9, 1.0)) == {"tflops"}
    assert context.record.content["notes"] == [
        "no share of the peak: the part `peaks` has not measured this device"
    ]


@pytest.mark.parametrize(
    ("shape", "bound"),
    [
        (LegShape("forward", 32768, 256, 1024, 512, 2, "bfloat16"), 416),
        (LegShape("to_rows", 32768, 256, 512, 1024, 1, "bfloat16"), 291),
        (LegShape("to_weights", 32768, 256, 1024, 512, 1, "bfloat16"), 230),
        (LegShape("forward", 65536, 16, 768, 1536, 2, "bfloat16"), 702),
    ],
)
def test_a_leg_is_bound_by_memory_or_by_the_peak(shape, bound):
    assert H200.bound(shape, SERIES) == pytest.approx(bound, abs=1)


def test_without_a_copy_there_is_no_bound(context):
    shape = LegShape("forward", 32768, 256, 1024, 512, 2, "bfloat16")
    assert math.isnan(rates.Rates({0.5: 702.0}, math.nan).bound(shape, SERIES))
    assert math.isnan(rates.Rates({}, 4262.0).bound(shape, SERIES))
    assert set(context.rate_of_leg(shape, 1.0)) == {"tflops"}
    keep(context.folder, {0.03: 8.0})
    assert set(context.rate_of_leg(shape, 1.0)) == {"tflops", "peak_share", "bound_tflops"}


def test_the_product_is_timed_in_series_of_each_length(context):
    peaks.run(context)
    *products, copy = context.record.measurements
    lengths = [m["ms_per_series"] for m in products]
    assert lengths == sorted(1e3 * s for s in (SERIES, REHEARSAL.seconds, 5 * REHEARSAL.seconds))
    assert [m["what"] for m in products] == ["matmul"] * 3 and copy["what"] == "copy"
    header, first, *_ = page.table("peaks", context.record.measurements)
    assert header[2] == "ms per series" and first[2] == "1"
