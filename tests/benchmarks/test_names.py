"""The benchmarks by name."""

import importlib
import sys

import pytest

from benchmarks import __main__ as names
from cartesian_moe_jax.errors import UserError


@pytest.mark.parametrize("name", names.BENCHMARKS)
def test_every_name_is_a_module_with_a_main(name):
    assert callable(importlib.import_module(f"benchmarks.{name}").main)


def test_a_name_runs_its_benchmark(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "curve_distance", "--help"])
    monkeypatch.delitem(sys.modules, "benchmarks.curve_distance", raising=False)
    with pytest.raises(SystemExit) as ended:
        names.main()
    assert ended.value.code == 0 and "--after" in capsys.readouterr().out


def test_wrong_input_is_one_line(monkeypatch, capsys):
    def refuse(*_, **__):
        raise UserError("--python=none cannot be run")

    monkeypatch.setattr(sys, "argv", ["benchmarks", "layer"])
    monkeypatch.setattr(names.runpy, "run_module", refuse)
    with pytest.raises(SystemExit) as ended:
        names.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: --python=none cannot be run\n"


@pytest.mark.parametrize("words", [[], ["stp"]])
def test_other_names_are_answered_with_what_there_is(words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", *words])
    with pytest.raises(SystemExit) as ended:
        names.main()
    said = capsys.readouterr().err
    assert ended.value.code == 2 and all(name in said for name in names.BENCHMARKS)
    assert ("error: there is no benchmark 'stp'" in said) == bool(words)
