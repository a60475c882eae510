"""The lock of a run directory: who has it, and that nobody has it for ever."""

import errno
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cartesian_moe_jax.paths import as_path
from cartesian_moe_jax.runs import run_lock
from cartesian_moe_jax.runs.directory import RunDirectory
from cartesian_moe_jax.runs.run_lock import lock_of_run
from tests import tiny
from tests.messages import message_of

pytest_plugins = ["tests.stand_in_store"]

HOLD = """
import sys, time
from pathlib import Path
from cartesian_moe_jax.runs.run_lock import lock_of_run

with lock_of_run(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(folder):
    with lock_of_run(folder):
        pass


def test_a_second_one_is_told_who_holds_the_run(tmp_path):
    with lock_of_run(tmp_path):
        said = message_of(hold, tmp_path)
        assert (tmp_path / ".lock").exists(), "who was refused leaves it"
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    assert said.startswith(f"--workdir={tmp_path} is in use by {holder}: ")
    assert not list(tmp_path.iterdir())
    hold(tmp_path)


def test_an_error_frees_it(tmp_path):
    with pytest.raises(KeyError), lock_of_run(tmp_path):
        raise KeyError
    hold(tmp_path)


def test_a_killed_holder_frees_it_and_what_it_leaves_is_no_other_content(tmp_path):
    program = [sys.executable, "-c", HOLD, str(tmp_path)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(program, cwd=root, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        assert f"process {holder.pid} on" in message_of(hold, tmp_path)
        holder.send_signal(signal.SIGKILL)
    assert (tmp_path / ".lock").exists()
    assert RunDirectory.checked(tmp_path, tiny.config()).path == tmp_path
    hold(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_no_error(tmp_path, monkeypatch, number):
    def flock(file, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(run_lock.fcntl, "flock", flock)
    with lock_of_run(tmp_path):
        hold(tmp_path)  # nothing was held, so a second one is not refused
        assert RunDirectory.checked(tmp_path, tiny.config()).path == tmp_path


def test_a_file_that_its_last_holder_removed_is_not_taken_for_the_lock(tmp_path, monkeypatch):
    removed, flock = [], run_lock.fcntl.flock

    def late(file, operation):
        if not removed:
            removed.append((tmp_path / ".lock").unlink())
        flock(file, operation)

    monkeypatch.setattr(run_lock.fcntl, "flock", late)
    with lock_of_run(tmp_path):
        assert removed and "is in use by" in message_of(hold, tmp_path)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    assert "/.lock cannot be written: " in message_of(hold, tmp_path / "nowhere")


def test_nothing_is_written_to_an_object_store(object_store):
    hold(as_path("gs://bucket/runs/one"))
    assert object_store.objects() == {}
