"""The coordinator of two processes, with a stand-in for the one that has PyTorch."""

import json
import stat
import sys
from types import SimpleNamespace

import pytest

from benchmarks import against_pytorch, timing
from benchmarks.against_pytorch import PyTorch, layer_groups, rows_of, step_group, time_group
from tests import tiny
from tests.messages import message_of

WORKER = """#!{python}
import json, sys, time
print(json.dumps({{"torch": "0", "threads": 2}}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    with open({log!r}, "a") as log:
        log.write(line)
    if "make" in request:
        reply = {{"number": 7, "temporary_bytes": 2500000}}
        if request["make"]["experts"] == "batched_mm":
            reply = {{"error": "none here"}}
    else:
        time.sleep(0.02)
        reply = {{"seconds": 0.02}}
    print(json.dumps(reply), flush=True)
"""
FLAGS = SimpleNamespace(d_model=8, d_expert=[4], experts=[3], top_k=2, tokens=16)


@pytest.fixture
def torch(tmp_path):
    """A process that answers as the worker does; what it is asked is in `requests`."""
    program = tmp_path / "python"
    program.write_text(WORKER.format(python=sys.executable, log=str(tmp_path / "requests")))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    process = PyTorch(str(program))
    yield process
    process.close()


def asked(folder):
    return [json.loads(line) for line in (folder / "requests").read_text().splitlines()]


def test_groups_ask_for_the_shapes_that_ours_have(torch, tmp_path, capsys):
    groups = [make() for make in layer_groups(torch, FLAGS)]
    assert [len(group.cases) for group in groups] == [3, 3, 3, 3]
    assert capsys.readouterr().out.count("batched_mm is left out: none here") == 3
    wanted = asked(tmp_path)[0]["make"]
    assert (wanted["kind"], wanted["rows"]) == ("cartesian", 16)
    assert wanted["shape"] == {"d_model": 8, "d_expert": 4, "experts": 3, "top_k": 2}


def test_cases_take_turns_and_ratios_are_theirs_to_ours(torch, tmp_path, monkeypatch):
    monkeypatch.setattr(against_pytorch, "PAUSE", 0.0)
    monkeypatch.setattr(timing, "WARM_SECONDS", 0.0)
    monkeypatch.setattr(timing, "TIMED_SECONDS", 0.0)
    (group, *_) = [make() for make in layer_groups(torch, FLAGS)[:1]]
    timings = time_group(group, rounds=2)
    assert sum("run" in request for request in asked(tmp_path)) == 2 * (2 + 2)
    ours, loop, _ = rows_of(group, timings)
    assert loop[-1] == "2.5" and timings[1].record()["temporary_bytes"] == 2500000
    assert ours[0] == "cartesian, E=3, width 4" and ours[4] == "" and loop[0] == ""
    assert float(loop[4]) == pytest.approx(timings[1].median / timings[0].median, abs=0.01)
    assert timings[1].median >= 20


def test_a_model_with_dense_layers_has_no_twin_in_pytorch(torch):
    words = message_of(step_group, torch, tiny.config(parallel={"data": -1}))
    assert words == "config.model.moe.interval=2 is not allowed: PyTorch's model knows 1 alone"


@pytest.mark.long
def test_a_step_that_computes_layers_again_is_timed_against_both_kinds(torch, tmp_path):
    moe = {"interval": 1, "num_experts": 3, "d_expert": 4}
    for remat, forms in {"none": [False] * 2, "full": [False, False, True, True]}.items():
        (tmp_path / "requests").unlink(missing_ok=True)
        model = {"num_layers": 1, "remat": remat, "moe": moe}
        config = tiny.config(model=model, parallel={"data": -1})
        names = [case.name for case in step_group(torch, config).cases]
        wanted = [request["make"] for request in asked(tmp_path)]
        assert [each["remat"] for each in wanted] == forms
        assert names[1:3] == ["loop", "grouped"] and ("loop, remat" in names) == any(forms)
        assert wanted[0]["optimizer"]["warmup_steps"] == config.optimizer.warmup_steps


def test_a_python_that_cannot_serve_is_one_line(tmp_path):
    assert "cannot be run: No such file" in message_of(PyTorch, str(tmp_path / "none"))
    assert "PyTorch's process ended" in message_of(PyTorch, "/bin/true")
