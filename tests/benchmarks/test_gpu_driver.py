"""The GPU benchmark as a whole: parts as processes, what they leave, and the page."""

import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from benchmarks.gpu import conditions as of_conditions
from benchmarks.gpu import driver, page
from benchmarks.gpu.conditions import conditions
from benchmarks.gpu.parts import PARTS, Part
from benchmarks.gpu.record import Record, read
from benchmarks.gpu.shares import share
from cartesian_moe_jax.kernels import left_out

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


@pytest.mark.long
def test_a_part_that_fails_or_is_stopped_loses_nothing_of_the_others(tmp_path, monkeypatch, capfd):
    """All with no more than a bare machine has."""
    (tmp_path / "sitecustomize.py").write_text(BLOCKER.format(absent=ABSENT))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    parts = {
        "decode": Part("stopped before it can begin", 0.2),
        "peaks": PARTS["peaks"],
        "legs": Part("crashes", 60, resumes=True),  # so that no other has time to spare
        "step": PARTS["step"],
    }
    folder = tmp_path / "out"
    folder.mkdir()
    monkeypatch.setattr(driver, "PARTS", parts)
    old = {"what": "of a run before", "window": 8, "texts": 1, "ms": 1.0, "tokens_per_s": 7.0}
    Record(folder / "decode.json", device="cpu", **conditions(rehearsal=True)).add(**old)
    (folder / "cpu.json").mkdir()  # where `legs` would write
    assert run_main(folder, monkeypatch, "--only", *parts) == 1
    ended = {name: part["ended"] for name, part in read(folder / "run.json")["parts"].items()}
    assert ended["peaks"] == ended["step"] == "done"
    assert ended["decode"].startswith("stopped after its 0 s; what it measured until then is kept")
    assert re.match(r"failed with exit status \d+: .*(cpu\.json|directory)", ended["legs"])
    text, said = (folder / "README.md").read_text(), capfd.readouterr().out
    for words in ("matmul", "base cartesian", "dense twin", ended["decode"], ended["legs"]):
        assert words in text and words in said
    assert "of a run before" not in text
    assert "no share of the peak" not in text and "jax not installed" not in text
    assert f"written to {folder / 'README.md'}" in said
    assert "## pytorch" in text and "not run" in text


def test_without_a_gpu_it_ends_at_once(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["gpu", str(tmp_path), "--only", "peaks", "step"])
    with pytest.raises(SystemExit) as ended:
        driver.main()
    assert ended.value.code == 2
    said = capfd.readouterr().out
    assert "error: jax finds no GPU but a cpu; --rehearse runs there" in said
    assert "step: a training" not in said


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Runs of parts without processes: what each was given, and how each ends, by its name."""
    given, ended = [], {}

    def run_part(name, part, folder, seconds, flags, without):
        given.append((name, round(seconds), without))
        clock[0] += seconds if name in ended else 0
        return ended.pop(name, "done")

    clock = [0.0]
    monkeypatch.setattr(driver, "run_part", run_part)
    monkeypatch.setattr(driver.time, "monotonic", lambda: clock[0])
    monkeypatch.delenv(driver.WITHOUT, raising=False)
    return given, ended


def test_parts_that_resume_get_what_time_is_left(tmp_path, runs):
    given, ended = runs
    ended["legs"] = "stopped"
    parts = {"legs": Part("", 140, resumes=True), "step": Part("", 500)}
    driver.run_parts(parts, tmp_path, [], until=400.0)
    assert given == [("legs", 140, ""), ("step", 260, ""), ("legs", 260, "")]


def test_a_part_for_which_there_is_no_time_is_said_to_be_left_out(tmp_path, runs):
    (tmp_path / "run.json").write_text('{"parts": {"step": {"ended": "done"}}}')
    driver.run_parts({"step": PARTS["step"]}, tmp_path, [], until=5.0)
    assert runs[0] == []
    assert read(tmp_path / "run.json")["parts"]["step"]["ended"] == driver.LEFT_OUT
    assert page.anything_wrong(tmp_path, ["step"])


COMPILING = "nothing was wrong until then: the others go with hopper"


@pytest.mark.parametrize(
    ("ended", "found", "without", "words"),
    [
        ("done", {}, "", None),
        ("stopped after its 45 s", {}, "", COMPILING),
        ("stopped after its 45 s", {"running": ""}, "", COMPILING),
        ("stopped after its 45 s", {"running": "to_rows x1 by hopper"}, "hopper", "in to_rows x1"),
        ("stopped after its 45 s", {"failed": ["hopper: wrong by 1"]}, "hopper", "go without"),
        ("failed with exit status -11: it said nothing", {}, "hopper", "go without hopper"),
    ],
)
def test_kernels_that_fail_or_hang_are_not_run_again(ended, found, without, words, tmp_path, runs):
    """Those that only took long to compile are."""
    given, how = runs
    (tmp_path / "trial.json").write_text(json.dumps(found))
    if ended != "done":
        how["trial"] = ended
    parts = {name: PARTS[name] for name in ("trial", "peaks")}
    driver.run_parts(parts, tmp_path, [], until=470.0)
    assert [(name, left) for name, _, left in given] == [("trial", ""), ("peaks", without)]
    kept = read(tmp_path / "run.json").get("parts", {}).get("trial", {})
    assert not words or words in kept["ended"]
    # What the trial has found holds when `legs` goes on later.
    driver.run_parts({"legs": PARTS["legs"]}, tmp_path, [], until=10_000.0)
    assert given[-1][2] == without
    assert driver.WITHOUT == left_out.WITHOUT


def test_both_kinds_of_hopper_kernels_may_fail(tmp_path, runs):
    given, how = runs
    how |= dict.fromkeys(["trial", "trial_in_turns"], "failed with exit status 2")
    parts = {name: PARTS[name] for name in ("trial", "trial_in_turns", "peaks")}
    driver.run_parts(parts, tmp_path, [], until=470.0)
    assert [left for *_, left in given] == ["", "hopper", "hopper,hopper_in_turns"]
    driver.run_parts({"legs": PARTS["legs"]}, tmp_path, [], until=10_000.0)
    assert given[-1][2] == "hopper,hopper_in_turns"


def test_what_the_user_leaves_out_stays_out(tmp_path, runs, monkeypatch):
    monkeypatch.setenv(driver.WITHOUT, "tokamax_triton")
    given, how = runs
    how["trial"] = "failed with exit status 2"
    driver.run_parts({n: PARTS[n] for n in ("trial", "peaks")}, tmp_path, [], until=470.0)
    assert [left for *_, left in given] == ["tokamax_triton", "tokamax_triton,hopper"]


def test_within_eight_minutes_every_part_has_its_least(tmp_path, runs):
    """Though all of them take whatever they get."""
    assert driver.SECONDS < 480
    given, how = runs
    how |= dict.fromkeys(PARTS, "stopped")
    driver.run_parts(PARTS, tmp_path, [], until=driver.SECONDS)
    first = {name: seconds for name, seconds, _ in given[: len(PARTS)]}
    assert list(first) == list(PARTS)
    assert all(PARTS[name].least <= first[name] <= PARTS[name].seconds for name in PARTS)


def test_where_the_time_is_short_the_last_parts_get_none():
    parts = list(PARTS.values())
    assert share(parts[0], parts[1:], 60.0) == 45
    assert share(parts[0], parts[1:], 95.0) == 40, "those in turns and parity have theirs, no other"
    whole = sum(part.least for part in parts)
    assert share(parts[0], parts[1:], whole - 1) == parts[0].least - 1
    assert share(parts[-1], [], 30.0) == 30


def test_time_to_spare_is_for_legs_and_without_them_for_whoever_runs():
    step, decode, legs = (PARTS[name] for name in ("step", "decode", "legs"))
    assert share(step, [decode], 400.0) == 400 - decode.seconds
    assert share(legs, [], 900.0) == 900
    assert share(step, [decode, legs], 400.0) == step.seconds
    assert share(step, [decode], 400.0, resumed=True) == step.seconds


def run_begin(folder, monkeypatch, sources, *names):
    """Begin a run of parts as if the kernels were `sources`; return what the page knows of all."""
    monkeypatch.setattr(driver, "conditions", lambda **_: {"sources": sources, "without": ""})
    driver.begin(folder, {name: PARTS[name] for name in names}, rehearse=True)
    return {name: part["ended"] for name, part in read(folder / "run.json")["parts"].items()}


def test_a_second_run_begins_with_nothing_but_what_is_of_the_same_kernels(tmp_path, monkeypatch):
    names = ["peaks", "legs", "step"]
    run_begin(tmp_path, monkeypatch, "a", *names)
    timings = tmp_path / "cache" / "cartesian_moe_jax" / "timings"
    timings.mkdir(parents=True)
    for name in names:
        step = {"what": "measured", "leg": "forward", "ms": 1.0, "tokens_per_s": 1.0}
        Record(tmp_path / f"{name}.json", device="cpu", sources="a", without="").add(**step)
        driver.note(tmp_path, name, ended="done", seconds=7)

    ended = run_begin(tmp_path, monkeypatch, "a", "legs")
    assert ended == {"peaks": "done", "legs": driver.NOT_BEGUN, "step": "done"}
    assert timings.exists() and all(page.shown(tmp_path, name) for name in names)
    assert not page.anything_wrong(tmp_path, ["step"])

    ended = run_begin(tmp_path, monkeypatch, "a", *names)
    assert set(ended.values()) == {driver.NOT_BEGUN}
    assert page.shown(tmp_path, "legs")["measurements"], "it may be resumed"
    assert not page.shown(tmp_path, "step") and timings.exists()

    Record(tmp_path / "step.json", device="cpu", sources="a", without="").add(**step)
    ended = run_begin(tmp_path, monkeypatch, "b", "legs")
    assert ended == {"legs": driver.NOT_BEGUN} and not timings.exists()
    text = page.page(tmp_path)
    for name in ("legs", "step"):
        line = f"* {name}.json is not shown, since it is of another run, with other sources"
        assert line in text and "measurements" not in page.shown(tmp_path, name)
    assert "tokens/s" not in text and page.anything_wrong(tmp_path, ["step"])


def test_what_was_measured_on_another_device_is_not_shown(tmp_path, monkeypatch):
    run_begin(tmp_path, monkeypatch, "a", "legs", "step", "decode")
    ended = {"legs": driver.LEFT_OUT, "decode": "done", "step": "stopped after its 9 s"}
    for name, device in {"legs": "old", "decode": "new", "step": "new"}.items():
        found = {"what": f"{name} on {device}", "ms": 1.0, "tokens_per_s": 1.0, "batch": 1}
        Record(tmp_path / f"{name}.json", device=device, sources="a").add(**found)
    for name, how in ended.items():
        driver.note(tmp_path, name, ended=how)
    text = page.page(tmp_path)
    assert "decode on new, 1 x None: 1.00 ms" in text and "step on new" in text
    assert "* legs.json is not shown, since it is of another run, with other device" in text


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
    monkeypatch.setattr(of_conditions, "PACKAGES", ("jax", "no-such-package"))
    about = driver.machine()
    assert about["no-such-package"] == "not installed" and about["jax"][0].isdigit()
    json.dumps(about)
