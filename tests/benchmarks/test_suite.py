"""One page of all benchmarks."""

import json
import sys

import pytest

from benchmarks import suite


@pytest.fixture
def measured(tmp_path):
    experts = [
        {"name": "forward, d_expert=8, dense twin", "ratio_to_dense_twin": 1.0},
        {"name": "forward, d_expert=8, 4 experts", "ratio_to_dense_twin": 1.25},
    ]
    times = {"cartesian": (10.0, 30.0, 20.0), "mixtral": (8.0, 12.0)}
    pytorch = [
        {"group": group, "name": "", "median_ms": ms} for group, own in times.items() for ms in own
    ]
    (tmp_path / "layer.json").write_text(json.dumps({"experts": experts}))
    (tmp_path / "pytorch_layers.json").write_text(json.dumps({"measurements": pytorch}))
    return tmp_path


def test_the_picture_shows_experts_and_the_fastest_of_pytorch(measured):
    bars = list(suite.ratios(measured))
    assert [(label, ratio) for _, label, ratio in bars] == [
        ("forward, d_expert=8, 4 experts", 1.25),
        ("cartesian", 2.0),
        ("mixtral", 1.5),
    ]
    suite.draw(bars, measured / "ratios.svg")
    drawn = (measured / "ratios.svg").read_text()
    assert all(f"<!-- {words} -->" in drawn for words in ("cartesian", "1.25", "2.00", "1.50"))


def test_nothing_measured_is_no_picture(tmp_path):
    assert list(suite.ratios(tmp_path)) == []


def test_a_part_that_fails_is_said_and_the_others_are_there(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(
        suite, "PARTS", {"a": ("layer", "--experts=none"), "b": ("curve", "--help")}
    )
    monkeypatch.setattr(sys, "argv", ["suite", f"--to={tmp_path / 'bench'}"])
    suite.main()
    page = (tmp_path / "bench" / "README.md").read_text()
    assert "`python -m benchmarks layer --experts=none`" in page
    assert "failed with exit status 2" in page and "usage: " in page
    assert "cores" in page.splitlines()[2] and "jax" in page.splitlines()[2]
    assert "invalid int value" in capfd.readouterr().err
