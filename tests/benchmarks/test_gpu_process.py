"""Parts of the GPU benchmark as processes: nothing of them stays, and nothing measured is lost."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu import driver, process
from benchmarks.gpu.conditions import ROOT
from benchmarks.gpu.record import read

SLEEPER = "#!/usr/bin/env bash\necho $$ > '{folder}/number'\nexec sleep 60\n"
DRIVER = """
import signal, sys
for each in (signal.SIGTERM, signal.SIGHUP):  # whatever started the tests ignores (nohup)
    signal.signal(each, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
from benchmarks.gpu import driver
driver.machine = dict
sys.executable = "{sleeper}"
driver.main()
"""


def is_gone(number):
    """Whether a process has ended, be it that nobody has asked for its status yet."""
    try:
        return Path(f"/proc/{number}/stat").read_text().split()[2] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def comes(happens):
    return any(happens() or time.sleep(0.1) for _ in range(300))


def test_what_was_measured_survives_the_end_of_the_process(tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from benchmarks.gpu.record import Record; "
        "r = Record(Path(sys.argv[1])); r.add(ms=1.0); r.add(ms=2.0); time.sleep(60)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "part.json")]
    ended = process.run_process(command, tmp_path / "log", 2.0, PYTHONPATH=str(ROOT))
    assert ended.startswith("stopped after its 2 s")
    assert read(tmp_path / "part.json")["measurements"] == [{"ms": 1.0}, {"ms": 2.0}]


def test_processes_that_a_part_has_started_end_with_it(tmp_path):
    program = (
        "import subprocess, sys; "
        "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid)"
    )
    ended = process.run_process([sys.executable, "-c", program], tmp_path / "log", 30.0)
    assert ended == "done"
    number = int((tmp_path / "log").read_text())
    assert comes(lambda: is_gone(number))


def test_a_process_that_does_not_go_is_not_waited_for_without_end(tmp_path, monkeypatch):
    """As where the GPU's driver holds it."""
    monkeypatch.setattr(process, "KILLED", 0.2)
    monkeypatch.setattr(process.os, "killpg", lambda *_: None)
    ended = process.run_process(["sleep", "3"], tmp_path / "log", 0.2)
    assert ended.startswith("stopped after its 0 s") and ended.endswith("stays")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_part_and_writes_the_page(number, tmp_path):
    sleeper, folder = tmp_path / "sleeper", tmp_path / "out"
    sleeper.write_text(SLEEPER.format(folder=tmp_path))
    sleeper.chmod(0o755)
    flags = [folder, "--rehearse", "--only", "peaks", "step"]
    benchmark = subprocess.Popen(
        [sys.executable, "-c", DRIVER.format(sleeper=sleeper), *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert comes(lambda: (tmp_path / "number").exists() and (tmp_path / "number").read_text())
    benchmark.send_signal(number)
    said, _ = benchmark.communicate(timeout=30)
    assert benchmark.returncode == 128 + number
    assert comes(lambda: is_gone(int((tmp_path / "number").read_text())))
    ended = {name: part["ended"] for name, part in read(folder / "run.json")["parts"].items()}
    assert ended == {"peaks": driver.BEGUN, "step": driver.NOT_BEGUN}
    text = (folder / "README.md").read_text()
    assert all(words in text and words in said for words in ended.values())


def test_afterwards_signals_mean_what_they_meant():
    before = [signal.getsignal(each) for each in process.SIGNALS]
    with process.orderly_end():
        assert signal.getsignal(signal.SIGTERM) is not before[0]
    assert [signal.getsignal(each) for each in process.SIGNALS] == before


def test_what_ignores_a_signal_still_does():
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with process.orderly_end():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
