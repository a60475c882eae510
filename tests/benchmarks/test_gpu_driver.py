"""The GPU benchmark as a whole: parts as processes, what they leave, and the page."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

from benchmarks.gpu import driver, page
from benchmarks.gpu.parts import PARTS, Part
from benchmarks.gpu.record import Record, read
from cartesian_moe_jax.kernels import by_leg

ROOT = Path(__file__).parents[2]
BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent}:
            raise ModuleNotFoundError(f"no {{name}} here")
sys.meta_path.insert(0, Blocker())
"""
ABSENT = (
    *("backports", "grain", "matplotlib", "ml_collections", "safetensors", "sentencepiece"),
    *("tensorboardX", "tensorflow_datasets", "tokenizers", "torch", "transformers"),
)
"""What is not installed on a machine that has no more than jax, flax, optax and orbax."""


def is_gone(number):
    """Whether a process has ended, be it that nobody has asked for its status yet."""
    try:
        return Path(f"/proc/{number}/stat").read_text().split()[2] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def run_main(folder, monkeypatch, *flags):
    """Run the driver as on one device; return its exit status."""
    flags_of_xla = os.environ["XLA_FLAGS"].replace("_device_count=8", "_device_count=1")
    monkeypatch.setenv("XLA_FLAGS", flags_of_xla)
    monkeypatch.setattr(sys, "argv", ["gpu", str(folder), "--rehearse", *flags])
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "xla"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    with pytest.raises(SystemExit) as ended:
        driver.main()
    return ended.value.code


def test_a_part_that_fails_or_is_stopped_loses_nothing_of_the_others(tmp_path, monkeypatch, capfd):
    """All with no more than a bare machine has."""
    (tmp_path / "sitecustomize.py").write_text(BLOCKER.format(absent=ABSENT))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    parts = {
        "decode": Part("stopped before it can begin", 0.2),
        "peaks": PARTS["peaks"],
        "legs": Part("crashes", 60),
        "step": PARTS["step"],
    }
    folder = tmp_path / "out"
    folder.mkdir()
    monkeypatch.setattr(driver, "PARTS", parts)
    Record(folder / "decode.json").add(what="kept", window=8, texts=1, ms=1.0, tokens_per_s=7.0)
    (folder / "cpu.json").mkdir()  # where `legs` would write
    assert run_main(folder, monkeypatch, "--only", *parts) == 1
    ended = {name: part["ended"] for name, part in read(folder / "run.json")["parts"].items()}
    assert ended["peaks"] == ended["step"] == "done"
    assert ended["decode"].startswith("stopped after its 0 s; what it measured until then is kept")
    assert re.match(r"failed with exit status \d+: .*(cpu\.json|directory)", ended["legs"])
    text, said = (folder / "README.md").read_text(), capfd.readouterr().out
    for words in ("matmul", "base cartesian", "dense twin", "kept, 1 x 8: 1.00 ms", ended["legs"]):
        assert words in text and words in said
    assert "no share of the peak" not in text and "jax not installed" not in text
    assert f"written to {folder / 'README.md'}" in said
    assert "## pytorch" in text and "not run" in text


def test_what_was_measured_survives_the_end_of_the_process(tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from benchmarks.gpu.record import Record; "
        "r = Record(Path(sys.argv[1])); r.add(ms=1.0); r.add(ms=2.0); time.sleep(60)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "part.json")]
    ended = driver.run_process(command, tmp_path / "log", 2.0, PYTHONPATH=str(ROOT))
    assert ended.startswith("stopped after its 2 s")
    assert read(tmp_path / "part.json")["measurements"] == [{"ms": 1.0}, {"ms": 2.0}]


def test_processes_that_a_part_has_started_end_with_it(tmp_path):
    program = (
        "import subprocess, sys; "
        "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid)"
    )
    ended = driver.run_process([sys.executable, "-c", program], tmp_path / "log", 30.0)
    assert ended == "done"
    number = int((tmp_path / "log").read_text())
    assert any(is_gone(number) or time.sleep(0.1) for _ in range(100))


def test_without_a_gpu_it_ends_at_once(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["gpu", str(tmp_path), "--only", "peaks", "step"])
    with pytest.raises(SystemExit) as ended:
        driver.main()
    assert ended.value.code == 2
    said = capfd.readouterr().out
    assert "error: jax finds no GPU but a cpu; --rehearse runs there" in said
    assert "step: a training" not in said


def test_parts_that_resume_get_what_time_is_left(tmp_path, monkeypatch):
    runs = []

    def run_part(name, part, folder, seconds, flags, environment):
        runs.append((name, round(seconds)))
        return "stopped" if name == "legs" and len(runs) == 1 else "done"

    monkeypatch.setattr(driver, "run_part", run_part)
    monkeypatch.setattr(driver.time, "monotonic", lambda: 100.0)
    parts = {"legs": Part("", 140, resumes=True), "step": Part("", 500)}
    driver.run_parts(parts, tmp_path, [], until=400.0)
    assert runs == [("legs", 140), ("step", 300), ("legs", 300)]
    runs.clear()
    driver.run_parts(parts, tmp_path, [], until=105.0)
    assert runs == []


@pytest.mark.parametrize(
    ("ended", "without"),
    [
        ("done", [{}, {}]),
        (
            "stopped",
            [
                {"CARTESIAN_MOE_WITHOUT": "hopper"},
                {"CARTESIAN_MOE_WITHOUT": "hopper,hopper_in_turns"},
            ],
        ),
    ],
)
def test_kernels_that_do_not_end_are_not_run_again(ended, without, tmp_path, monkeypatch):
    given = []

    def run_part(name, part, folder, seconds, flags, environment):
        given.append(environment)
        return ended

    monkeypatch.setattr(driver, "run_part", run_part)
    parts = {name: PARTS[name] for name in ("trial", "trial_in_turns", "step")}
    driver.run_parts(parts, tmp_path, [], until=driver.time.monotonic() + 100)
    assert given == [{}, *without]
    assert driver.WITHOUT == by_leg.WITHOUT


def test_limits_are_within_eight_minutes():
    assert driver.SECONDS < 480
    first = list(PARTS)[:7]
    assert first == ["trial", "trial_in_turns", "parity", "peaks", "legs", "layer", "step"]
    assert sum(PARTS[name].seconds for name in first) < driver.SECONDS


def test_an_empty_folder_is_a_page_too(tmp_path):
    text = page.page(tmp_path)
    assert text.count("not run") >= len(PARTS) and page.anything_wrong(tmp_path, PARTS)


def test_the_launcher_is_clean_and_hands_on_its_arguments(tmp_path):
    script = ROOT / "benchmarks" / "gpu.sh"
    tool = Path(sysconfig.get_path("scripts")) / "shellcheck"
    done = subprocess.run([tool, script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    assert os.access(script, os.X_OK)
    program = tmp_path / "python"
    program.write_text('#!/usr/bin/env bash\n[[ "$1" == -c ]] || printf "%s\\n" "$PWD" "$@"\n')
    program.chmod(0o755)
    done = subprocess.run(
        [script, "a folder", "--rehearse"],
        env={**os.environ, "PYTHON": str(program)},
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    words = [str(ROOT), "-m", "benchmarks", "gpu", "a folder", "--rehearse"]
    assert done.stdout.splitlines() == words


def test_a_python_without_jax_is_one_line(tmp_path):
    program = tmp_path / "python"
    program.write_text("#!/usr/bin/env bash\necho flax\n")
    program.chmod(0o755)
    done = subprocess.run(
        [ROOT / "benchmarks" / "gpu.sh"],
        env={**os.environ, "PYTHON": str(program)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stdout == ""
    said = f"error: PYTHON={program} has no flax: name one that has, as in PYTHON=.venv/bin/python"
    assert done.stderr.splitlines() == [said]


def test_machine_says_what_is_not_installed(monkeypatch):
    monkeypatch.setattr(driver, "PACKAGES", ("jax", "no-such-package"))
    about = driver.machine()
    assert about["no-such-package"] == "not installed" and about["jax"][0].isdigit()
    json.dumps(about)
