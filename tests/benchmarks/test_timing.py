"""Times of several functions, taken in turns."""

import time

import pytest

from benchmarks import timing
from benchmarks.timing import Case, time_cases


def case(name, seconds, calls, flops=0.0):
    def run():
        calls.append(name)
        time.sleep(seconds)

    return Case(name, run, 0, 0.0, flops)


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(timing, "WARM_SECONDS", 0.0)
    monkeypatch.setattr(timing, "TIMED_SECONDS", 0.2)


def test_what_is_quick_is_timed_more_often(short):
    slow, quick = time_cases([case("slow", 0.15, [])], rounds=2), []
    (timed,) = time_cases([case("quick", 0.002, quick)], rounds=2)
    assert slow[0].rounds == 2 < timed.rounds <= timing.MOST_ROUNDS
    assert len(quick) == timed.rounds + 2
    assert 2 <= timed.median < 15 <= slow[0].median


def test_every_round_runs_all_cases(short):
    calls = []
    time_cases([case("a", 0.05, calls), case("b", 0.05, calls)], rounds=3)
    pairs = [set(calls[i : i + 2]) for i in range(0, len(calls), 2)]
    assert all(pair == {"a", "b"} for pair in pairs) and len(pairs) >= 5


def test_the_share_of_the_peak(short):
    half, peak = (
        time_cases([case("", seconds, [], flops)], rounds=2)[0]
        for seconds, flops in ((0.02, 1e6), (0.01, 1e6))
    )
    assert 40 <= int(half.of_peak(peak).rstrip("%")) <= 60
    assert time_cases([case("", 0.01, [])], rounds=2)[0].of_peak(peak) == ""
