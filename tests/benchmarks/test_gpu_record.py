"""Records of the GPU benchmark, and the conditions under which one goes on where it was."""

import json
import sys

import pytest

from benchmarks.gpu import conditions, parts
from benchmarks.gpu.record import Record, read

NOW = conditions.conditions(rehearsal=True)


def test_infinity_is_a_word(tmp_path):
    Record(tmp_path / "a.json").add(ms=1.0, worst=float("inf"))
    kept = json.loads((tmp_path / "a.json").read_text())
    assert kept["measurements"] == [{"ms": 1.0, "worst": "inf"}]


@pytest.mark.parametrize(
    ("change", "resumes"),
    [
        ({}, True),
        ({"device": "another"}, False),
        ({"rehearsal": False}, False),
        ({"without": "hopper"}, False),
        ({"packages": {**NOW["packages"], "jax": "0.0.1"}}, False),
        ({"sources": "of yesterday"}, False),
    ],
    ids=lambda value: str(value)[:30],
)
def test_legs_go_on_under_equal_conditions_alone(change, resumes, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.gpu.legs.run", lambda context: None)
    Record(tmp_path / "legs.json", **{"device": "cpu", **NOW, **change}).add(ms=1.0)
    parts.run_part("legs", tmp_path, sys.executable, rehearse=True)
    found = read(tmp_path / "legs.json")
    assert bool(found["measurements"]) == resumes
    assert {name: found[name] for name in NOW} == NOW, "whatever was there before"


def test_other_parts_begin_anew(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.gpu.peaks.run", lambda context: None)
    Record(tmp_path / "peaks.json", device="cpu", **NOW).add(ms=1.0)
    parts.run_part("peaks", tmp_path, sys.executable, rehearse=True)
    assert read(tmp_path / "peaks.json")["measurements"] == []


def test_sources_are_those_of_the_kernels_and_of_what_measures_them(tmp_path):
    kernels, others = (tmp_path / "cartesian_moe_jax" / name for name in ("kernels", "study"))
    for folder in (kernels / "deeper", others):
        folder.mkdir(parents=True)
        (folder / "a.py").write_text("1")
    first = conditions.digest(tmp_path)
    (others / "a.py").write_text("2")
    assert conditions.digest(tmp_path) == first
    (kernels / "deeper" / "a.py").write_text("2")
    assert conditions.digest(tmp_path) != first
    assert NOW["sources"] not in (first, conditions.digest(tmp_path))


def test_kernels_that_are_left_out_are_in_every_record(monkeypatch):
    monkeypatch.setenv(conditions.WITHOUT, "hopper")
    assert conditions.conditions(rehearsal=True) == NOW | {"without": "hopper"}


def test_a_record_is_of_a_run_unless_they_are_known_to_differ():
    run = {"rehearsal": True, "packages": {"jax": "1"}, "sources": "a"}
    assert conditions.changed(run | {"device": "cpu", "without": "hopper"}, run) == []
    assert conditions.changed({**run, "sources": "b"}, run | {"device": "x"}) == [
        "sources",
        "device",
    ]
