"""A run that was stopped, or killed, and continued equals one in one go, bit for bit."""

import contextlib
import dataclasses
import os
import signal
import threading
import time

import jax
import numpy as np
import pytest

from cartesian_moe_jax.data import ByteTokenizer
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.runs.checkpoints import Checkpoints
from cartesian_moe_jax.runs.metrics_log import read_metrics
from cartesian_moe_jax.runs.run_lock import lock_of_run
from cartesian_moe_jax.training.loop import prepare, resume_or_create, train
from cartesian_moe_jax.training.trainer import Trainer
from tests import processes
from tests.messages import message_of


@pytest.fixture(scope="module")
def trainer(finished_run):
    return Trainer(finished_run.config, prepare(finished_run.config, ByteTokenizer()))


def restored(trainer, workdir):
    """The state that a resumed run starts from."""
    with (
        jax.set_mesh(trainer.mesh),
        Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints,
    ):
        return jax.device_get(resume_or_create(trainer, checkpoints)[0])


def losses(workdir):
    """The loss and gradient norm of every recorded training step."""
    records = [r for r in read_metrics(workdir / "metrics.jsonl") if "loss" in r]
    return [(r["step"], r["loss"], r["gradient_norm"]) for r in records]


def assert_equal_runs(trainer, ours, theirs):
    """Parameters, optimizer state and step; the losses on the way; the evaluation at the end."""
    states = restored(trainer, ours.workdir), restored(trainer, theirs.workdir)
    assert states[0].step == theirs.config.training.steps
    moments = [np.abs(leaf).max() for leaf in jax.tree.leaves(states[0].optimizer)]
    assert min(moments) > 0, "an optimizer that remembers nothing cannot be restored wrongly"
    jax.tree.map(np.testing.assert_array_equal, *states)
    assert losses(ours.workdir) == losses(theirs.workdir)
    assert len(losses(ours.workdir)) == theirs.config.training.steps
    for name in ("validation", "sample", "tokens"):
        assert ours.result[name] == theirs.result[name]


def wait_until(is_so, seconds=60):
    """Poll often: the runs that are watched take a second."""
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


@contextlib.contextmanager
def sent_sigterm_after(file, records):
    """Send this process SIGTERM as soon as a metrics file has so many records."""

    def send():
        wait_until(lambda: file.is_file() and file.read_text().count("\n") >= records)
        os.kill(os.getpid(), signal.SIGTERM)

    # Should the signal come late, it must not end the tests.
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        signal.signal(signal.SIGTERM, before)


def test_a_run_stopped_by_sigterm_goes_on_as_if_it_had_not_been(finished_run, trainer, tmp_path):
    workdir, config = tmp_path / "run", finished_run.config
    with sent_sigterm_after(workdir / "metrics.jsonl", records=5):
        stopped = train(config, workdir)
    assert stopped.result is None
    assert stopped.signal == signal.SIGTERM
    assert 5 <= stopped.stopped_at < config.training.steps
    assert restored(trainer, workdir).step == stopped.stopped_at
    assert not (workdir / "result.json").exists()
    outcome = train(config, workdir)
    resumed = finished_run._replace(workdir=workdir, result=outcome.result)
    assert_equal_runs(trainer, resumed, finished_run)


def test_a_run_killed_between_checkpoints_goes_on_from_the_newest(finished_run, trainer, tmp_path):
    workdir = tmp_path / "run"
    # Checkpoints and validations that the other run did not have must change nothing.
    often = ["--config.training.checkpoint_every=2", "--config.evaluation.every=3"]
    killed = processes.start(*finished_run.command, *often, f"--workdir={workdir}")
    wait_until(lambda: (workdir / "checkpoints" / "4").is_dir() or killed.poll() is not None)
    killed.kill()
    status, _, err = processes.finish(killed)
    assert status == -signal.SIGKILL, err
    assert 4 <= restored(trainer, workdir).step < finished_run.config.training.steps
    # Nor may a trace of the last step.
    outcome = train(dataclasses.replace(finished_run.config, profile="20:1"), workdir)
    assert list((workdir / "tensorboard").glob("plugins/profile/*/*.xplane.pb"))
    resumed = finished_run._replace(workdir=workdir, result=outcome.result)
    assert_equal_runs(trainer, resumed, finished_run)


def arrays(folder):
    """All files of arrays: which of them are read depends on how many were written at a time."""
    return [file for file in folder.rglob("d/*") if file.is_file()]


DAMAGES = {
    "parameters": lambda step: arrays(step / "parameters"),
    "optimizer": lambda step: arrays(step / "optimizer"),
    "index": lambda step: [step / "parameters" / "manifest.ocdbt"],
    "metadata": lambda step: [step / "parameters" / "_METADATA"],
    "progress": lambda step: [step / "progress" / "metadata"],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_one_line(trainer, unfinished, damage):
    for file in DAMAGES[damage](unfinished / "checkpoints" / "20"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 10])
    with pytest.raises(UserError) as caught:
        restored(trainer, unfinished)
    assert str(unfinished / "checkpoints" / "20") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_with_a_damaged_checkpoint_does_not_start_anew(finished_run, unfinished):
    for file in arrays(unfinished / "checkpoints" / "20" / "parameters"):
        file.write_bytes(file.read_bytes()[:100])
    before = processes.files_below(unfinished)
    with pytest.raises(UserError, match="checkpoints/20 cannot be read"):
        train(finished_run.config, unfinished)
    assert processes.files_below(unfinished) == before


def test_a_second_process_in_the_folder_is_one_line_and_changes_nothing(finished_run, unfinished):
    with lock_of_run(unfinished):
        before = processes.files_below(unfinished)
        said = message_of(train, finished_run.config, unfinished)
        assert processes.files_below(unfinished) == before
    assert said.startswith(f"--workdir={unfinished} is in use by process {os.getpid()} on ")


def test_a_finished_run_is_not_trained_again(finished_run):
    before = processes.files_below(finished_run.workdir)
    outcome = train(finished_run.config, finished_run.workdir)
    assert outcome.was_done
    assert outcome.result == finished_run.result
    assert processes.files_below(finished_run.workdir) == before
