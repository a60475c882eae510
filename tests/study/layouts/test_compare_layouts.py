"""The verb as users call it, on virtual devices; and what it says when something is wrong."""

import dataclasses
import json
import re
import select
import subprocess
import sys
from pathlib import Path

import pytest

from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.parallel.targets import parse_target
from cartesian_moe_jax.study.layouts import command, jobs
from cartesian_moe_jax.study.layouts.command import Options, run_comparison
from cartesian_moe_jax.study.layouts.row import Row
from cartesian_moe_jax.study.layouts.setups import setup_of
from tests import tiny

ROOT = Path(__file__).parents[3]
SMALL = (
    "--config=configs/quickstart.py",
    *(
        f"--config.{field}"
        for field in (
            "model.d_model=16",
            "model.num_heads=2",
            "model.num_layers=1",
            "model.moe.num_experts=4",
            "model.moe.d_expert=8",
            "model.moe.backend=reference",
            "data.seq_len=16",
        )
    ),
)


def compare(*arguments):
    whole = [sys.executable, "-m", "cartesian_moe_jax", "compare_layouts", *SMALL, *arguments]
    return subprocess.run(whole, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_the_verb_compiles_and_runs_layouts_and_says_what_they_cost(tmp_path):
    files = (f"--json={tmp_path / 'rows.json'}", f"--picture={tmp_path / 'rows.svg'}")
    done = compare("--target=cpu:4", "--layouts=fsdp,expert", "--exchanges=gather", "--run", *files)
    assert done.returncode == 0, done.stderr
    assert "the vocabulary of bytes" in done.stdout
    rows = {row["layout"]: row for row in json.loads((tmp_path / "rows.json").read_text())["rows"]}
    assert set(rows) == {"fsdp", "expert"}
    assert rows["fsdp"]["mesh"] == {"data": 1, "fsdp": 4, "expert": 1, "tensor": 1}
    assert rows["expert"]["mesh"] == {"data": 1, "fsdp": 1, "expert": 4, "tensor": 1}
    assert all(row["step_seconds"] > 0 and not row["reason"] for row in rows.values())
    kinds = {(c["kind"], *c["axes"]) for c in rows["expert"]["collectives"]}
    assert {("all-gather", "expert"), ("reduce-scatter", "expert")} <= kinds
    # Tokens are gathered: all go to each of 3 other devices, of which a token needs few.
    assert rows["expert"]["exchange_bytes"] > rows["expert"]["least_exchange_bytes"] > 0
    assert rows["fsdp"]["parameter_bytes"] < rows["expert"]["parameter_bytes"]
    assert re.search(r"best that fits: --config\.parallel\.layout=(fsdp|expert) ", done.stdout)
    assert (tmp_path / "rows.svg").read_bytes().startswith(b"<?xml")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"target": "tpu:v5p:8x8"}, "--target='tpu:v5p:8x8' is not allowed"),
        ({"target": "cpu:2", "layouts": "datta"}, "--layouts='datta' is unknown: allowed are data"),
        ({"target": "tpu:v5e:2x2", "measured": True}, "--run needs devices that are here"),
        ({"target": "local", "search": True}, "--search needs the number of devices"),
    ],
)
def test_wrong_input_is_named_before_anything_is_compiled(options, line, monkeypatch):
    monkeypatch.setenv("TPU_LIBRARY_PATH", __file__)  # there, if not what it should be
    with pytest.raises(UserError) as caught:
        run_comparison(tiny.config(), "tiny", Options(**options))
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_wrong_input_is_one_line_and_status_2():
    done = compare("--target=mars:8")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --target='mars:8' is unknown: allowed are cpu:N")
    assert len(done.stderr.splitlines()) == 1


def configs(*changes):
    """Configs of a model of one layer, each with its ``parallel`` and ``training`` fields."""
    small = {"num_layers": 1, "moe": {"interval": 0}}
    return [
        tiny.config(model=small, parallel={"data": 0, **parallel}, training=training)
        for parallel, training in changes
    ]


@pytest.mark.long
def test_a_layout_that_does_not_fit_is_a_row_with_the_reason():
    target = parse_target("cpu:4")
    cases = configs(({"expert": 3}, {}), ({"layout": "data"}, {"batch_size": 6}), ({}, {}))
    wrong_mesh, wrong_batch, right = jobs.rows_of(cases, target, setup_of(target))
    assert wrong_mesh.reason.startswith("config.parallel has data=0, fsdp=0, expert=3")
    assert wrong_batch.reason.startswith("config.training.batch_size=6 is not allowed")
    assert wrong_batch.mesh["data"] == 4
    assert not right.reason and right.total_bytes > right.parameter_bytes


DYING = """
import json, os, sys
from cartesian_moe_jax.study.layouts.row import Row
for line in sys.stdin:
    layout = json.loads(line)["config"]["parallel"]["layout"]
    if layout == "fsdp":
        print("F1126 some/compiler.cc:12] Check failed: it broke", file=sys.stderr, flush=True)
        os.abort()
    print(Row(layout).to_json(), flush=True)
"""


def stand_in(tmp_path, monkeypatch, program):
    """A target, and the set-up for a process that runs `program` in place of the compiler's."""
    (tmp_path / "stand_in_worker.py").write_text(program)
    monkeypatch.setattr(jobs, "WORKER", "stand_in_worker")
    target = parse_target("cpu:4")
    setup = setup_of(target)
    path = f"{tmp_path}:{setup.environment['PYTHONPATH']}"
    return target, setup._replace(environment=setup.environment | {"PYTHONPATH": path})


@pytest.mark.parametrize("workers", [1, 2])
def test_a_compiler_that_dies_costs_one_row(workers, tmp_path, monkeypatch):
    target, setup = stand_in(tmp_path, monkeypatch, DYING)
    cases = configs(*(({"layout": name}, {}) for name in ("data", "fsdp", "tensor")))
    before, dead, after = jobs.rows_of(cases, target, setup, workers=workers)
    assert (before.layout, before.reason, after.layout, after.reason) == ("data", "", "tensor", "")
    assert dead.layout == "fsdp"
    assert "SIGABRT" in dead.reason and "Check failed: it broke" in dead.reason


SLOW = """
import json, os, sys, time
from pathlib import Path
from cartesian_moe_jax.study.layouts.row import Row
folder = Path(__file__).parent
for line in sys.stdin:
    layout = json.loads(line)["config"]["parallel"]["layout"]
    (folder / f"{layout}.{os.getpid()}.pid").touch()
    if layout == "data":  # until another process works beside this one
        while not list(folder.glob("fsdp.*.pid")):
            time.sleep(0.01)
    if layout == "tensor":
        time.sleep(600)
    print(Row(layout).to_json(), flush=True)
"""


def test_several_compile_at_once_in_order_and_end_when_they_are_left(tmp_path, monkeypatch):
    target, setup = stand_in(tmp_path, monkeypatch, SLOW)
    cases = configs(*(({"layout": name}, {}) for name in ("data", "fsdp", "tensor", "tensor")))
    rows = jobs.rows_of(cases, target, setup, workers=2)
    assert [next(rows).layout, next(rows).layout] == ["data", "fsdp"]
    rows.close()
    started = {file.name.split(".")[1] for file in tmp_path.glob("*.pid")}
    assert len(started) == 2
    assert not any(Path(f"/proc/{process}").exists() for process in started)


def test_a_comparison_that_is_stopped_prints_what_it_has(tmp_path, monkeypatch, capsys):
    def rows_then_stop(*arguments, **options):
        yield Row("fsdp", reason="it was too large")
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "rows_of", rows_then_stop)
    file = tmp_path / "rows.json"
    with pytest.raises(KeyboardInterrupt):
        run_comparison(tiny.config(), "tiny", Options("cpu:2", json=str(file)))
    assert "it was too large" in capsys.readouterr().out
    assert [row["layout"] for row in json.loads(file.read_text())["rows"]] == ["fsdp"]


def test_the_compiling_process_ends_with_the_one_that_asks():
    # A shell starts it and is gone; its input stays open, and so does its output while it lives.
    started = f"exec 3<&0; {sys.executable} -m {jobs.WORKER} cpu:2 $$ <&3 & sleep 0.2"
    target = parse_target("cpu:2")
    environment = setup_of(target).environment
    with subprocess.Popen(
        ["sh", "-c", started],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as shell:
        ended, _, _ = select.select([shell.stdout], [], [], 60)
        assert ended and shell.stdout.read() == b"", "its output ends when it has"


@pytest.mark.long
def test_a_step_that_was_not_run_has_no_time():
    target = parse_target("cpu:2")
    (row,) = jobs.rows_of(configs(({}, {"batch_size": 2})), target, setup_of(target))
    assert row.step_seconds is None
    assert dataclasses.replace(row, step_seconds=1.0).order()[2] == 1.0
