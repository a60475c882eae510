"""The run directory: what it accepts, and files that are whole or absent."""

import json

import pytest

from cartesian_moe_jax.runs.directory import RunDirectory
from tests import tiny
from tests.messages import message_of


@pytest.fixture
def run(tmp_path):
    run = RunDirectory(tmp_path / "deep" / "run")
    run.begin(tiny.config(), {"kind": "bytes"})
    return run


def test_a_run_is_reopened_with_the_config_it_was_begun_with(run):
    assert RunDirectory.checked(run.path, tiny.config()).config() == tiny.config()
    assert RunDirectory.of_existing(run.path).read_json("tokenizer.json") == {"kind": "bytes"}


def test_another_config_is_named_field_by_field(run):
    other = tiny.config(model={"d_model": 32, "moe": {"top_k": 1}}, data={"seq_len": 8})
    message = message_of(RunDirectory.checked, run.path, other)
    for change in ("model.d_model: 16 -> 32", "model.moe.top_k: 2 -> 1", "data.seq_len: 16 -> 8"):
        assert change in message
    assert str(run.path) in message
    assert "log_every" not in message


def test_a_run_may_go_on_with_other_resumable_fields(run):
    other = tiny.config(training={"log_every": 1, "checkpoint_every": 2}, parallel={"data": -1})
    assert RunDirectory.checked(run.path, other).path == run.path


def test_paths_are_kept_as_absolute_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bpe.json").write_text("{}")
    (tmp_path / "bytes").write_text("a file that is called as a tokenizer is")
    data = {"corpus": "0.5*text:a + 0.5*packed:b", "validation_corpus": "text:c/*.jsonl"}
    config = tiny.config(data={**data, "tokenizer": "bpe.json", "tfds_dir": "~/t"})
    RunDirectory(tmp_path / "run").begin(config, {"kind": "bytes"})
    kept = RunDirectory(tmp_path / "run").config().data
    assert kept.corpus == f"0.5*text:{tmp_path}/a + 0.5*packed:{tmp_path}/b"
    assert kept.validation_corpus == f"text:{tmp_path}/c/*.jsonl"
    assert (kept.tokenizer, kept.tfds_dir) == (f"{tmp_path}/bpe.json", "~/t")
    RunDirectory(tmp_path / "other").begin(tiny.config(), {"kind": "bytes"})
    assert RunDirectory(tmp_path / "other").config() == tiny.config()


@pytest.mark.parametrize("trained", [True, False])
def test_text_of_which_a_run_knows_is_kept_once_it_was_trained_on(run, trained):
    if trained:
        (run.checkpoints / "5").mkdir(parents=True)
    other = tiny.config(data={"corpus": "text:/other", "tokenizer": "/gone.json"})
    assert RunDirectory.checked(run.path, other).newest_step() == (5 if trained else None)
    run.begin(other, {"kind": "bytes"})
    own = tiny.config().data
    expected = (own.corpus, own.tokenizer) if trained else ("text:/other", "/gone.json")
    assert (run.config().data.corpus, run.config().data.tokenizer) == expected


def test_a_finished_run_has_its_own_text(run):
    run.write_json("result.json", {})
    other = tiny.config(data={"corpus": "text:/other"})
    message = message_of(RunDirectory.checked, run.path, other)
    assert "(data.corpus: 'python_stdlib' -> 'text:/other')" in message
    RunDirectory.checked(run.path, tiny.config())


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("dear")
    assert f"--workdir={tmp_path}" in message_of(RunDirectory.checked, tmp_path, tiny.config())
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_no_workdir(tmp_path):
    file = tmp_path / "file"
    file.write_text("text")
    assert str(file) in message_of(RunDirectory.checked, file, tiny.config())
    below = RunDirectory.checked(file / "run", tiny.config())
    assert str(file / "run") in message_of(below.begin, tiny.config(), {})
    assert file.read_text() == "text"


@pytest.mark.parametrize("make", [True, False], ids=["empty", "missing"])
def test_checking_an_empty_or_missing_folder_writes_nothing(tmp_path, make):
    folder = tmp_path / "run"
    if make:
        folder.mkdir()
    RunDirectory.checked(folder, tiny.config())
    assert folder.exists() == make
    assert not make or not list(folder.iterdir())


def test_a_folder_without_a_run_cannot_be_opened(tmp_path):
    assert "no config.json" in message_of(RunDirectory.of_existing, tmp_path)


@pytest.mark.parametrize("text", ["", '{"model": {"d_mo', '"\x00"', "\udcff"])
def test_a_damaged_file_is_one_line_that_names_it(run, text):
    file = run.path / "config.json"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert str(file) in message_of(RunDirectory.checked, run.path, tiny.config())


def test_json_is_written_whole_or_not_at_all(run):
    run.write_json("result.json", {"loss": 1.5})
    files = sorted(p.name for p in run.path.iterdir())
    with pytest.raises(TypeError):
        run.write_json("result.json", {"loss": 2.5, "curve": object()})
    assert json.loads((run.path / "result.json").read_text()) == {"loss": 1.5}
    assert sorted(p.name for p in run.path.iterdir()) == files
