"""The scripts of docs/clusters.md: their form, and what they do with stand-ins for the clusters."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

from tests.several import free_port

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "scripts").iterdir())


def name_of(file):
    return file.name


def test_shellcheck_finds_nothing():
    tool = Path(sysconfig.get_path("scripts")) / "shellcheck"
    assert tool.exists(), "shellcheck is missing: pip install -r requirements-dev.txt"
    done = subprocess.run([tool, *SCRIPTS], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=name_of)
def test_scripts_are_short_strict_and_in_the_manual(script):
    text = script.read_text()
    assert text.startswith("#!/usr/bin/env bash\n")
    assert re.search(r"^set -euo pipefail$", text, re.MULTILINE)
    assert len(text.splitlines()) <= 50
    assert os.access(script, os.X_OK)
    assert f"scripts/{script.name}" in (ROOT / "docs" / "clusters.md").read_text()


@pytest.fixture
def stand_in(tmp_path):
    """A function that puts a program of bash lines in front of the PATH; and that environment."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def make(name, lines):
        file = folder / name
        file.write_text(f"#!{shutil.which('bash')}\n{lines}\n")
        file.chmod(0o755)

    return make, {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}


def test_arguments_reach_every_tpu_host_as_they_are(stand_in, tmp_path):
    make, environ = stand_in
    make("gcloud", f'printf "%s\\n" "$@" > {tmp_path}/said')
    arguments = ["train.py", "--workdir=gs://b/a run", "--config.data.corpus=0.5*text:/a + 0.5*b"]
    script = ROOT / "scripts" / "tpu_slice.sh"
    subprocess.run([script, "pod", "us-a", *arguments], env=environ, check=True)
    said = (tmp_path / "said").read_text().splitlines()
    assert said[:-1] == shlex.split("compute tpus tpu-vm ssh pod --zone=us-a --worker=all")
    folder, words = said[-1].removeprefix("--command=").split(" && exec ")
    assert folder == "cd cartesian_moe_jax"
    assert shlex.split(words) == [".venv/bin/python", *arguments]


SRUN = """
for i in 0 1; do
  SLURM_STEP_NODELIST=localhost SLURM_STEP_NUM_TASKS=2 SLURM_STEP_TASKS_PER_NODE="1(x2)" \\
    SLURM_PROCID=$i SLURM_LOCALID=0 "${@:2}" &
  pids+=("$!")
done
status=0
for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
exit "$status"
"""
PLACE = r"""
import os, sys
sys.path.insert(0, {root!r})
from cartesian_moe_jax.parallel.environments import Place, find_place
# In one piece: two write at once.
sys.stdout.write(f"{{find_place(Place(), os.environ)}} {{sys.argv[2:]}}\n")
sys.exit({status})
"""


@pytest.mark.parametrize("status", [0, 1, 143])
def test_a_slurm_job_that_was_stopped_is_queued_again(stand_in, tmp_path, status):
    make, environ = stand_in
    (tmp_path / "place.py").write_text(PLACE.format(root=str(ROOT), status=status))
    make("python", f'exec {sys.executable} {tmp_path}/place.py "$@"')
    make("srun", SRUN)
    make("scontrol", f'echo "$@" > {tmp_path}/queued')
    environ |= {"PYTHON": "python", "SLURM_JOB_ID": "4097"}
    script = ROOT / "scripts" / "slurm.sbatch"
    done = subprocess.run(
        [script, "--workdir=a run"], env=environ, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == status, done.stderr
    place = "Place(coordinator='localhost:61441', count=2, index={}, local_device=None)"
    lines = sorted(done.stdout.splitlines())
    assert lines == [f"{place.format(i)} ['--workdir=a run']" for i in (0, 1)]
    queued = tmp_path / "queued"
    assert (queued.read_text() if queued.exists() else "") == "requeue 4097\n" * (status == 143)


def test_processes_of_one_host_get_a_gpu_each_and_a_signal_comes_to_the_first(stand_in, tmp_path):
    make, environ = stand_in
    make(
        "python",
        f"""echo "$CUDA_VISIBLE_DEVICES" "$@" > {tmp_path}/said.$CUDA_VISIBLE_DEVICES
sleep 60 & trap 'kill $!; echo stopped > {tmp_path}/stopped; exit 143' TERM
[ "$CUDA_VISIBLE_DEVICES" = 0 ] && wait
kill $!
while [ ! -e {tmp_path}/stopped ]; do sleep 0.05; done
exit 143""",
    )
    port = str(free_port())
    script = ROOT / "scripts" / "one_host.sh"
    environ |= {"PYTHON": "python", "PORT": port}
    started = subprocess.Popen([script, "2", "train.py", "--workdir=a run"], env=environ)
    end = time.monotonic() + 30
    while len(list(tmp_path.glob("said.*"))) < 2:
        assert time.monotonic() < end
        time.sleep(0.05)
    time.sleep(0.3)
    started.send_signal(signal.SIGTERM)
    assert started.wait(30) == 143
    common = f"train.py --workdir=a run --coordinator=localhost:{port} --processes=2 --process="
    assert [(tmp_path / f"said.{i}").read_text() for i in (0, 1)] == [
        f"{i} {common}{i}\n" for i in (0, 1)
    ]
