"""A run goes on with its text wherever that lies now, and with no other text."""

import dataclasses
import json

import pytest

from cartesian_moe_jax.data import ByteTokenizer
from cartesian_moe_jax.evaluation.of_run import Asked, evaluate_run
from cartesian_moe_jax.runs.directory import RunDirectory
from cartesian_moe_jax.training.loop import prepare, train
from tests import tiny
from tests.messages import message_of


def on(config, **data):
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **data))


def corpus_of(workdir):
    return json.loads((workdir / "config.json").read_text())["data"]["corpus"]


def packed(config):
    [part] = prepare(config, ByteTokenizer()).train
    return f"packed:{part.tokens.corpus.directory}"


@pytest.mark.parametrize("place", ["relative", "copy", "packed"])
def test_a_run_goes_on_with_its_text_in_another_place(
    finished_run, unfinished, tmp_path, monkeypatch, place
):
    config = finished_run.config
    (tmp_path / "elsewhere").mkdir()
    copy = tmp_path / "elsewhere" / "corpus.txt"
    copy.write_text(tiny.TEXT)
    monkeypatch.chdir(tmp_path)
    places = {"relative": "text:elsewhere", "copy": f"text:{copy}", "packed": packed(config)}
    outcome = train(on(config, corpus=places[place]), unfinished)
    assert outcome.result["validation"] == finished_run.result["validation"]
    assert outcome.result["data"]["content_hash"] == finished_run.result["data"]["content_hash"]
    assert corpus_of(unfinished) == config.data.corpus, "that of which the run knows"


def test_other_text_is_refused_each_time_and_changes_nothing(finished_run, unfinished, tmp_path):
    (tmp_path / "other.txt").write_text(tiny.TEXT[1000:])
    other = on(finished_run.config, corpus=f"text:{tmp_path}/other.txt")
    for _ in range(2):
        message = message_of(train, other, unfinished)
        known = finished_run.result["data"]["content_hash"]
        assert "other.txt' has changed since step 20" in message and known[:12] in message
        assert corpus_of(unfinished) == finished_run.config.data.corpus
    validated = on(finished_run.config, validation_corpus=f"text:{tmp_path}/other.txt")
    assert "has changed since step 20" in message_of(train, validated, unfinished)
    assert train(finished_run.config, unfinished).result is not None


def test_before_anything_was_trained_other_text_takes_its_place(finished_run, tmp_path):
    workdir = tmp_path / "run"
    RunDirectory(workdir).begin(finished_run.config, {"kind": "bytes"})
    (tmp_path / "other.txt").write_text(tiny.TEXT[1000:])
    other = on(finished_run.config, corpus=f"text:{tmp_path}/other.txt")
    assert train(other, workdir).result["data"]["corpus"] == other.data.corpus
    assert corpus_of(workdir) == other.data.corpus
    assert evaluate_run(workdir)["corpus"] == other.data.corpus


def test_a_finished_run_is_not_that_of_other_text(finished_run, tmp_path):
    other = on(finished_run.config, corpus=f"text:{tmp_path}/other.txt")
    message = message_of(train, other, finished_run.workdir)
    assert "holds a run of another config (data.corpus: 'text:" in message
    assert "other.txt" in message


def test_a_run_begun_with_relative_paths_is_evaluated_from_anywhere(
    finished_run, unfinished, tmp_path, monkeypatch
):
    (tmp_path / "corpus.txt").write_text(tiny.TEXT)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    relative = on(finished_run.config, corpus="text:corp*.txt", cache_dir="cache")
    # As earlier versions kept it.
    RunDirectory(unfinished).write_json("config.json", dataclasses.asdict(relative))
    asked = Asked(max_tokens=100)
    old = evaluate_run(unfinished, asked=asked)
    assert train(relative, unfinished).result is not None
    assert corpus_of(unfinished) == f"text:{tmp_path}/corp*.txt"
    assert train(relative, unfinished).was_done
    monkeypatch.chdir(tmp_path / "elsewhere")
    new = evaluate_run(unfinished, asked=asked)
    assert new["loss"] == old["loss"]
    assert not list((tmp_path / "elsewhere").iterdir()), "no second cache"
