"""What one process finds wrong, all say; what the others would say is given here."""

import dataclasses
import json

import pytest

from cartesian_moe_jax.errors import AgreedError, UserError
from cartesian_moe_jax.parallel import processes
from cartesian_moe_jax.parallel.processes import agreed, require_same, texts_of_all
from cartesian_moe_jax.runs import together
from cartesian_moe_jax.runs.directory import RunDirectory
from tests import tiny


@pytest.fixture
def others(monkeypatch):
    """A function that says what other processes say, as a function of what this one does."""

    def say(theirs):
        for module in (processes, together):
            monkeypatch.setattr(module, "texts_of_all", lambda text: [text, theirs(text)])

    return say


def test_one_process_agrees_with_itself():
    assert texts_of_all("größe") == ["größe"]
    with agreed():
        pass
    with pytest.raises(AgreedError, match=r"^no space$"), agreed():
        raise UserError("no space")


def test_an_error_of_another_process_is_ours_too(others):
    others(lambda text: "no space")
    with pytest.raises(AgreedError, match=r"^process 1: no space$"), agreed():
        pass


def test_an_error_of_ours_alone_is_said_to_be(others):
    others(lambda text: "")
    with pytest.raises(AgreedError, match=r"^process 0: no space$"), agreed():
        raise UserError("no space")


def test_an_error_of_all_is_said_once(others):
    others(lambda text: text)
    with pytest.raises(AgreedError, match=r"^no space$"), agreed():
        raise UserError("no space")


def test_contents_that_differ_are_named(others):
    others(lambda text: "b1")
    with pytest.raises(AgreedError, match=r"^the corpus: process 0 has a1, process 1 has b1$"):
        require_same("a1", "the corpus")


def changed(name, value):
    """What a process says whose fact of that name is another."""
    return lambda text: json.dumps(json.loads(text) | {name: value})


DIFFERENT = {
    "config.training.log_every": (7, "4 for process 0, 7 for process 1"),
    "config.parallel.layout": ("fsdp", "'data' for process 0, 'fsdp' for process 1"),
    "what the run directory holds": ("a run until step 9", "'no run' for process 0, 'a run until"),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_another_config_or_folder_is_named(others, tmp_path, name):
    value, words = DIFFERENT[name]
    others(changed(name, value))
    with pytest.raises(AgreedError, match=f"^{name} is not the same for all processes: {words}"):
        together.require_one_run(RunDirectory(tmp_path), tiny.config())


def test_fields_of_a_machine_are_not_compared(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(together, "texts_of_all", lambda text: said.append(text) or [text])
    config = tiny.config()
    for cache in ("/here", "/there"):
        data = dataclasses.replace(config.data, cache_dir=cache)
        together.require_one_run(RunDirectory(tmp_path), dataclasses.replace(config, data=data))
    assert said[0] == said[1]
    assert "config.data.seq_len" in said[0]


def test_what_a_run_directory_holds(finished_run, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(together, "texts_of_all", lambda text: said.append(text) or [text])
    for path in (finished_run.workdir, tmp_path):
        together.require_one_run(RunDirectory(path), finished_run.config)
    facts = [json.loads(text)["what the run directory holds"] for text in said]
    assert facts == ["a finished run", "no run"]
