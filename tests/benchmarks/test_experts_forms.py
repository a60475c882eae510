"""The forms that the benchmark of experts compares compute the same."""

import jax
import numpy as np
import pytest

from benchmarks import timing
from benchmarks.experts import RAGGED, Setting, make_arguments, measure, table_rows
from benchmarks.layer import measure as measure_layer
from benchmarks.layer import parse_arguments


def test_ragged_dot_gives_what_ours_gives():
    rows, sizes, weights, _ = make_arguments(Setting(24, 2, 16, "float32", "auto", 1), 5, 8)
    ours, ragged = (jax.jit(form)(rows, sizes, weights) for form in RAGGED.values())
    np.testing.assert_allclose(ours, ragged, rtol=1e-4, atol=1e-4)


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(timing, "WARM_SECONDS", 0.0)
    monkeypatch.setattr(timing, "TIMED_SECONDS", 0.0)
    monkeypatch.setattr(timing, "PEAK_SIZE", 64)


def test_experts_are_counted_with_their_work(short):
    timings = measure(Setting(24, 2, 16, "float32", "auto", 1), 8, [5], True, RAGGED)
    # Three products of rows x d_model x d_expert, two operations each, and twice that backward.
    assert {t.case.flops for t in timings[1:]} == {3 * 3 * 2 * 48 * 16 * 8}
    names = [row[0].split(", ", 2)[2] for row in table_rows(timings)]
    assert names == ["dense twin", "5 experts", "5 experts, ragged_dot"]


@pytest.mark.long
def test_a_layer_says_what_it_dropped_and_its_share_of_the_peak(short, monkeypatch):
    monkeypatch.setattr("sys.argv", ["layer", "--tokens", "16", "--d_model", "8", "--rounds", "1"])
    measured = measure_layer(parse_arguments(), 4, 8, False)
    twin, layer, total, *parts = measured.rows("all")
    assert (layer[0], layer[6]) == ("all, layer", "0.0%") and layer[5].endswith("%")
    assert twin[3] == "1.00" and total[4] == "1.00" and len(parts) == 6
    whole = 2 * sum(part.median for part in measured.parts.values())
    assert float(layer[4]) == pytest.approx(measured.layer.median / whole, abs=0.006)
