"""Several processes are one run: the losses of one process, one writer, one end."""

import dataclasses
import json
import shutil
import signal
import time

import pytest

from cartesian_moe_jax.runs.metrics_log import read_metrics
from cartesian_moe_jax.training.loop import train
from tests import processes, several

EXPERT = ["--config.parallel.layout=expert", "--config.parallel.data=2"]
ACROSS = [*EXPERT, "--config.parallel.expert=4"]
"""Of 2 processes with 4 devices, and 4 with 2: the latter have parts of the experts each."""
LAYOUTS = {"data": ["--config.parallel.data=-1"], "expert": ACROSS}

TOLERANCE = 1e-5


def losses(workdir):
    """The losses of all steps, each recorded once, in order."""
    records = [r for r in read_metrics(workdir / "metrics.jsonl") if "loss" in r]
    assert [r["step"] for r in records] == list(range(1, len(records) + 1))
    return [r["loss"] for r in records]


def assert_the_same_run(workdir, of_one_process):
    """Training, validation and sample are those of one process."""
    result = json.loads((workdir / "result.json").read_text())
    ours, theirs = losses(workdir), losses(of_one_process.workdir)
    assert ours == pytest.approx(theirs, rel=TOLERANCE)
    expected = of_one_process.result
    for name in ("sample", "tokens", "steps", "data", "baseline", "parameters"):
        assert result[name] == expected[name]
    assert result["validation"] == pytest.approx(expected["validation"], rel=TOLERANCE)
    assert len(list((workdir / "tensorboard").glob("events.*"))) >= 1
    return result


def assert_the_first_alone_spoke(ended, words):
    first, *others = ended
    assert words in first.out
    for other in others:
        noted = [line for line in other.err.splitlines() if "SIGTERM caught" not in line]
        assert (other.out, noted) == ("", [])


def wait_for_records(workdir, records, started):
    """Wait until so many are written; a process that ended before fails the test."""
    file, end = workdir / "metrics.jsonl", time.monotonic() + 100
    while not file.is_file() or file.read_text().count("\n") < records:
        assert time.monotonic() < end
        ended = [p for p in started if p.poll() is not None]
        assert not ended, ended[0].communicate()
        time.sleep(0.01)


def test_two_processes_stop_together_and_one_continues_on_another_mesh(finished_run, tmp_path):
    """Told by SLURM; SIGTERM comes to the one that does not write."""
    workdir = tmp_path / "run"
    slow = ["--config.evaluation.every=1", "--config.training.checkpoint_every=5"]
    command = [*finished_run.command, *ACROSS, *slow, f"--workdir={workdir}"]
    started = several.start(2, *command, told=several.by_slurm)
    wait_for_records(workdir, 12, started)
    started[1].send_signal(signal.SIGTERM)
    ended = several.finish(started)
    assert [process.status for process in ended] == [128 + signal.SIGTERM] * 2, ended
    stopped_at = len(losses(workdir))
    assert_the_first_alone_spoke(ended, f"stopped at step {stopped_at}: ")
    assert 4 <= stopped_at < 20
    assert (workdir / "checkpoints" / str(stopped_at)).is_dir()

    fsdp = dataclasses.replace(finished_run.config.parallel, layout="fsdp", data=2, fsdp=4)
    outcome = train(dataclasses.replace(finished_run.config, parallel=fsdp), workdir)
    assert outcome.result["machine"]["devices"] == 8
    assert_the_same_run(workdir, finished_run)


ENVIRONMENTS = {
    "flags": several.by_flags,
    "variables": several.by_variables,
    "SLURM": several.by_slurm,
    "Open MPI": several.by_open_mpi,
    "TPU slices": several.by_tpu_slices,
}


@pytest.mark.long
@pytest.mark.parametrize("told", ENVIRONMENTS)
def test_evaluation_under_each_environment_agrees_with_one_process(finished_run, tmp_path, told):
    workdir = tmp_path / "run"
    shutil.copytree(finished_run.workdir, workdir)
    count = 2 if told != "TPU slices" else 4
    ended = several.run(count, "eval.py", f"--workdir={workdir}", told=ENVIRONMENTS[told])
    assert_the_first_alone_spoke(ended, "perplexity")
    measured = json.loads((workdir / "evaluation.json").read_text())
    expected = finished_run.result["validation"]
    assert {k: measured[k] for k in expected} == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.long
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_train_as_one(finished_run, tmp_path, count, layout):
    """On an empty cache: one of them prepares the data."""
    workdir, cache = tmp_path / "run", tmp_path / "cache"
    command = [*finished_run.command, *LAYOUTS[layout], f"--config.data.cache_dir={cache}"]
    ended = several.run(count, *command, f"--workdir={workdir}")
    assert_the_first_alone_spoke(ended, "try next")
    result = assert_the_same_run(workdir, finished_run)
    assert result["machine"]["devices"] == 8
    again = several.run(count, *command, f"--workdir={workdir}")
    assert_the_first_alone_spoke(again, "is done")


def test_processes_that_do_not_come_are_one_line(tmp_path):
    short = ["--join_seconds=0.5", "--config=configs/base.py", f"--workdir={tmp_path / 'run'}"]
    (ended,) = several.finish(several.start(3, "train.py", *short, came=[0]))
    assert (ended.status, ended.out) == (2, ""), ended.err
    assert ended.err.startswith("error: 1 of 3 processes came to localhost:")
    assert ended.err.endswith(" within 0.5 s: 1, 2 did not\n")


def test_half_of_the_flags_is_one_line(tmp_path):
    process = processes.start("eval.py", f"--workdir={tmp_path}", "--processes=2", "--process=0")
    ended = processes.finish(process)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith("error: --coordinator=HOST:PORT (or JAX_COORDINATOR_ADDRESS) miss")
    assert ended.err.count("\n") == 1


def assert_all_refused(ended, words):
    """All end with status 2; the first, which speaks for all, says why in one line."""
    assert [process.status for process in ended] == [2] * len(ended), ended
    *_, last = ended[0].err.splitlines()
    assert last.startswith("error: ") and words in last, last
    for other in ended[1:]:
        assert (other.out, other.err) == ("", "")


def told_also(arguments_of):
    """Tell each process its place by flags, and ``arguments_of(index)``."""

    def told(index, count, port):
        flags, variables = several.by_flags(index, count, port)
        return flags + arguments_of(index), variables

    return told


@pytest.mark.long
def test_what_is_wrong_for_one_process_ends_all(finished_run, tmp_path):
    def corpus(index):
        return [f"--config.data.corpus=text:{tmp_path}/missing"] if index else []

    workdir = f"--workdir={tmp_path / 'run'}"
    command = [*finished_run.command, workdir, "--config.parallel.data=-1"]
    ended = several.finish(several.start(2, *command, told=told_also(corpus)))
    assert_all_refused(ended, "config.data.corpus is not the same for all processes: 'text:")
    # Of one config, for a reason that one process alone has: a file where its cache would be.
    (tmp_path / "file").write_text("")

    def cache(index):
        return [f"--config.data.cache_dir={tmp_path}/{'file' if index else 'cache'}"]

    ended = several.finish(several.start(2, *command, told=told_also(cache)))
    assert_all_refused(ended, "error: process 1: ")
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_folders_that_are_not_shared_are_refused(finished_run, tmp_path):
    def folder(index):
        return [f"--workdir={tmp_path / str(index)}"]

    command = [*finished_run.command, "--config.parallel.data=-1"]
    ended = several.finish(several.start(2, *command, told=told_also(folder)))
    words = f"process 1: --workdir={tmp_path / '1'} is not the folder that process 0 writes to"
    assert_all_refused(ended, words)
    ended = several.finish(several.start(2, *command, told=told_also(folder)))
    assert_all_refused(ended, "'a run without checkpoints' for process 0, 'no run' for process 1")


@pytest.mark.long
@pytest.mark.parametrize("killed", [0, 1])
def test_a_process_that_is_killed_ends_all_and_the_run_continues(finished_run, tmp_path, killed):
    workdir = tmp_path / "run"
    command = [*finished_run.command, *ACROSS, f"--workdir={workdir}"]
    often = ["--config.evaluation.every=1", "--config.training.checkpoint_every=2"]
    started = several.start(2, *command, *often)
    wait_for_records(workdir, 12, started)
    started[killed].kill()
    ended = several.finish(started)
    assert ended[killed].status == -signal.SIGKILL
    # Who has lost the first process may be ended by jax before it can say anything.
    assert ended[1 - killed].status in ((1, -signal.SIGABRT) if killed == 0 else (1,))
    if ended[1 - killed].status == 1:
        *_, last = ended[1 - killed].err.splitlines()
        assert last.endswith("another process has ended; the same command continues the run")
    several.run(2, *command)
    assert_the_same_run(workdir, finished_run)


@pytest.mark.long
def test_rows_go_to_their_devices_on_a_mesh_that_interleaves_processes():
    first, second = several.run(2, "-m", "tests.parallel.interleaved", devices=4)
    assert first.out == "0 | [(0, 4), (2, 4)] | (8, 5) | True\n"
    assert second.out == "1 | [(1, 4), (3, 4)] | (8, 5) | True\n"
