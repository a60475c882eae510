"""Evaluation of a run's folder: of which data, on which devices, and where the numbers go."""

import dataclasses
import json
import shutil

import jax
import pytest

from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.evaluation import command, run_config
from cartesian_moe_jax.evaluation.of_run import Asked, evaluate_run
from cartesian_moe_jax.evaluation.opened_run import opened
from cartesian_moe_jax.evaluation.place import Place
from cartesian_moe_jax.evaluation.run_config import changed, mesh_here, with_batch_of
from cartesian_moe_jax.parallel.mesh import make_mesh
from cartesian_moe_jax.runs.checkpoint_mesh import batch_parts_of_checkpoint
from cartesian_moe_jax.runs.directory import RunDirectory
from tests import tiny
from tests.messages import message_of


@pytest.fixture
def run(finished_run, tmp_path):
    """A copy of the finished run, and of its corpus, that may be changed."""
    workdir, corpus = tmp_path / "run", tmp_path / "corpus.txt"
    shutil.copytree(finished_run.workdir, workdir)
    (workdir / "evaluation.json").unlink(missing_ok=True)
    corpus.write_text(tiny.TEXT)
    values = json.loads((workdir / "config.json").read_text())
    values["data"] |= {"corpus": f"text:{corpus}", "cache_dir": str(tmp_path / "cache")}
    (workdir / "config.json").write_text(json.dumps(values))
    return workdir


def test_the_hash_of_the_data_is_told_and_that_it_is_another(run, finished_run):
    noted, known = [], finished_run.result["data"]["content_hash"]
    assert evaluate_run(run, note=noted.append)["data_hash"] == known
    assert noted == []
    with open(run.parent / "corpus.txt", "a") as corpus:
        corpus.write("more of it\n" * 200)
    found = evaluate_run(run, note=noted.append)["data_hash"]
    [line] = noted
    assert line.startswith("note: 'text:") and "\n" not in line
    assert known[:12] in line and found[:12] in line and found != known
    other = evaluate_run(run, asked=Asked(f"text:{run.parent}/corpus.txt"), note=noted.append)
    assert len(noted) == 1, "of another corpus nothing is expected"
    assert other["data_hash"] not in (known, found)


def test_the_training_split_is_what_was_trained_on(run, finished_run):
    noted = []
    changes = {"data": {"validation_corpus": f"text:{run.parent}/corpus.txt"}}
    with opened(run, None, Asked(split="train"), noted.append) as own:
        tokens = {part.name: len(part.tokens) for part in own.evaluator.validation}
    assert [*tokens.values()] == [*finished_run.result["data"]["train_tokens"].values()]
    assert noted == []
    with opened(run, None, Asked(split="train", changes=changes), noted.append) as all_of_it:
        assert len(all_of_it.evaluator.validation[0].tokens) == len(tiny.TEXT) + 1
    assert len(noted) == 1


def test_numbers_are_printed_before_they_are_kept(run, capsys):
    (run / "evaluation.json").mkdir()  # nothing can be written there
    command.print_evaluation(Place(run), None, Asked())
    out, err = capsys.readouterr()
    assert "perplexity" in out and "written to" not in out
    *_, warning = err.splitlines()
    assert warning.startswith("warning: ") and "evaluation.json cannot be written" in warning
    assert "--to=FILE.json" in warning
    assert not [path for path in run.iterdir() if path.suffix == ".partial"]


@pytest.mark.parametrize("to", ["there.json", "folder", "deep/folder/"])
def test_numbers_are_kept_where_that_is_asked_for(run, tmp_path, capsys, to):
    before = sorted(run.rglob("*"))
    command.print_evaluation(Place.of(run, str(tmp_path / to)), None, Asked(max_tokens=64))
    file = tmp_path / to if to.endswith(".json") else tmp_path / to / "evaluation.json"
    assert f"written to       {file}" in capsys.readouterr().out
    assert json.loads(file.read_text())["tokens"] == 64
    assert sorted(run.rglob("*")) == before


def test_a_place_that_was_asked_for_must_be_writable(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    place = Place.of(tmp_path, str(tmp_path / "file" / "a.json"))
    assert str(tmp_path / "file") in message_of(place.keep, "evaluation", {})
    one_file = Place.of(tmp_path, "a.json")
    assert "--to=a.json is one file" in message_of(one_file.require_folder)
    Place.of(tmp_path, "folder").require_folder()


def config(batch_size=64, accumulate=1, rows=0):
    training = {"batch_size": batch_size, "accumulate": accumulate}
    return tiny.config(training=training, evaluation={"batch_size": rows}, parallel={"data": 0})


@pytest.mark.parametrize(
    "rows, accumulate, parts, devices, expected",
    [
        (0, 1, 8, 8, 64),  # as in training
        (0, 1, 8, 1, 8),  # one of the eight devices that shared the batch
        (0, 2, 8, 1, 4),
        (0, 1, 1, 8, 64),
        (0, 1, None, 2, 64),  # nothing says what it was
        (48, 1, 16, 2, 6),
        (5, 1, 8, 2, 2),
    ],
)
def test_no_device_gets_more_than_one_had_in_training(rows, accumulate, parts, devices, expected):
    run = config(accumulate=accumulate, rows=rows)
    mesh = make_mesh(run.parallel, jax.devices()[:devices])
    found = with_batch_of(run, {}, mesh, parts, trained=True)
    assert found.evaluation.batch_size == expected
    given = changed(run, asked := {"evaluation": {"batch_size": 40}})
    assert with_batch_of(given, asked, mesh, parts, trained=True).evaluation.batch_size == 40
    unknown = with_batch_of(run, {}, mesh, parts, trained=False).evaluation.batch_size
    assert unknown == min(rows or 64 // accumulate, run_config.ROWS_UNTRAINED * devices)


def test_a_checkpoint_says_on_how_many_devices_it_was_written(finished_run, tmp_path):
    run = RunDirectory(finished_run.workdir)
    assert batch_parts_of_checkpoint(run, 20) == 8
    assert batch_parts_of_checkpoint(run, 21) is None


def test_a_mesh_that_is_asked_for_replaces_the_runs_and_must_fit():
    run = tiny.config(parallel={"layout": "expert", "data": 2, "expert": 2})
    assert mesh_here(run, {})[0].parallel.layout == "data", "four devices are not eight"
    other, mesh = mesh_here(changed(run, asked := {"parallel": {"layout": "fsdp"}}), asked)
    assert (other.parallel.layout, dict(mesh.shape)["fsdp"]) == ("fsdp", 8)
    wrong = {"parallel": {"data": 3}}
    with pytest.raises(UserError, match=r"data=3, .*does not fit 8 devices"):
        mesh_here(changed(run, wrong), wrong)


def test_the_model_and_the_text_of_a_run_are_its_own():
    run = tiny.config()
    data = {"data": {"workers": 3}, "evaluation": {"max_tokens": 5}}
    expected = dataclasses.replace(run.data, workers=3), 5
    assert (changed(run, data).data, changed(run, data).evaluation.max_tokens) == expected
    for section, name in (("model", "d_model"), ("data", "seq_len"), ("evaluation", "prompt")):
        message = message_of(changed, run, {section: {name: 3}})
        assert f"config.{section}.{name} is not allowed: " in message
        assert "config.data.(corpus, " in message
    message = message_of(changed, run, {"evaluation": {"batch_size": -1}})
    assert "config.evaluation.batch_size=-1 is not allowed: at least 0" in message


def test_the_batch_and_the_layout_do_not_change_what_is_measured(run):
    own = evaluate_run(run, asked=Asked(max_tokens=200))
    changes = {"evaluation": {"batch_size": 24}, "parallel": {"layout": "fsdp"}}
    other = evaluate_run(run, asked=Asked(max_tokens=200, changes=changes))
    assert own["tokens"] == other["tokens"] == 200
    assert other["loss"] == pytest.approx(own["loss"], rel=1e-5)
