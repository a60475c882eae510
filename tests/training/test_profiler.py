"""The steps that a config names are in the trace, and no others."""

import jax
import jax.numpy as jnp
import pytest

from cartesian_moe_jax.training.profiler import Profiler
from tests import tiny
from tests.messages import message_of


@jax.jit
def traced_step(x):
    return x @ x


def run(profiler, first, last):
    """Run steps; return what was said after each."""
    said, state = [], traced_step(jnp.ones((8, 8)))
    for step in range(first, last + 1):
        profiler.before(step, state)
        state = traced_step(state)
        said.append(profiler.after(step, state))
    jax.block_until_ready(state)
    profiler.close()
    return said


def executions(folder):
    """How often the step ran in the trace."""
    (file,) = folder.glob("plugins/profile/*/*.xplane.pb")
    planes = jax.profiler.ProfileData.from_file(str(file)).planes
    events = [event for plane in planes for line in plane.lines for event in line.events]
    facts = [dict(event.stats) for event in events]
    return len({f["run_id"] for f in facts if f.get("hlo_module") == "jit_traced_step"})


def test_the_steps_of_the_window_are_traced(tmp_path):
    said = run(Profiler((3, 2), tmp_path, position=0), 1, 6)
    assert [bool(line) for line in said] == [False, False, False, True, False, False]
    assert said[3].startswith("steps 3 to 4 are traced") and str(tmp_path) in said[3]
    assert executions(tmp_path) == 2


def test_a_run_that_stops_within_the_window_leaves_a_trace(tmp_path):
    assert run(Profiler((3, 9), tmp_path, position=0), 1, 4) == [""] * 4
    assert executions(tmp_path) == 2


def test_a_trace_that_cannot_be_written_is_said_and_no_more(tmp_path):
    file = tmp_path / "file"
    file.write_text("not a folder")
    said = run(Profiler((3, 2), file, position=0), 1, 6)
    assert said[3].startswith(f"the trace is lost: {file}/plugins/profile/")
    assert "\n" not in said[3] and not any(said[:3] + said[4:])
    # The next run in this process has its trace.
    run(Profiler((3, 2), tmp_path / "next", position=0), 1, 6)
    assert executions(tmp_path / "next") == 2


def test_another_trace_of_the_process_is_said_and_no_more(tmp_path, capsys):
    with jax.profiler.trace(str(tmp_path / "other")):
        assert run(Profiler((3, 2), tmp_path / "run", position=0), 1, 6) == [""] * 6
    assert capsys.readouterr().err.startswith("nothing is traced: ")
    assert not (tmp_path / "run").exists()


def test_no_window_is_no_trace(tmp_path):
    assert run(Profiler(None, tmp_path, position=0), 1, 4) == [""] * 4
    assert not list(tmp_path.iterdir())


def test_a_window_behind_a_continued_run_is_said(tmp_path, capsys):
    assert run(Profiler((3, 2), tmp_path, position=3), 4, 5) == ["", ""]
    assert capsys.readouterr().err == "config.profile: step 3 is over, nothing is traced\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("profile", "words"),
    [
        ("3", "config.profile='3' is not allowed: START:STEPS, both at least 1, or empty"),
        ("0:2", "config.profile='0:2' is not allowed: START:STEPS, both at least 1, or empty"),
        ("12:2", "config.profile='12:2' is not allowed: it ends behind config.training.steps=12"),
    ],
)
def test_windows_that_cannot_be(profile, words):
    assert message_of(tiny.config, None, profile=profile) == words


def test_the_last_step_may_be_traced():
    assert tiny.config(profile="12:1").profile_window() == (12, 1)
