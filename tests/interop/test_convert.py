"""python -m cartesian_moe_jax convert, both ways, and loading what it wrote."""

import json

import numpy as np
import pytest

import cartesian_moe_jax as cmoe
from cartesian_moe_jax import __main__ as command_line
from cartesian_moe_jax.data.tokenizers import resolve_tokenizer
from cartesian_moe_jax.evaluation.of_run import Asked, evaluate_run
from cartesian_moe_jax.models.parameters import named_parameters
from cartesian_moe_jax.runs.checkpoints import Checkpoints
from cartesian_moe_jax.runs.directory import RunDirectory
from cartesian_moe_jax.runs.parameters import write_run
from tests import official_files, tiny, tokenizer_files
from tests.messages import message_of

TOKENS = np.array([list(b"def add_1(a, b)\n")])


def convert(source, target, *more):
    argv = ["convert", f"--from={source}", f"--to={target}", *more]
    arguments = command_line.parse(argv)
    return arguments.run(arguments)


def test_text_of_a_checkpoint_without_tokenizer(finished_run, tmp_path, capsys):
    theirs = tmp_path / "theirs"
    convert(finished_run.workdir, theirs)
    capsys.readouterr()
    argv = ["generate", "--prompt=def add_", "--max_new_tokens=4", "--temperature=0"]
    for more in (
        [f"--workdir={theirs}", "--tokenizer=bytes"],
        [f"--workdir={finished_run.workdir}"],
    ):
        arguments = command_line.parse([*argv, *more])
        arguments.run(arguments)
    first, second = capsys.readouterr().out.splitlines()
    assert first == second and first.startswith("def add_")
    arguments = command_line.parse([*argv, f"--workdir={theirs}"])
    assert "text needs a tokenizer" in message_of(arguments.run, arguments)


def test_a_trained_run_comes_back_bit_by_bit(finished_run, tmp_path, capsys):
    run, theirs, again = finished_run.workdir, tmp_path / "theirs", tmp_path / "deep/again"
    convert(run, theirs)
    assert "step 20 of" in capsys.readouterr().out
    assert {file.name for file in theirs.iterdir()} == {"config.json", "model.safetensors"}
    convert(theirs, again, "--tokenizer=bytes")
    assert "training cannot continue it" in capsys.readouterr().out

    first, second, between = cmoe.load(run), cmoe.load(again), cmoe.load(theirs)
    assert (first.step, second.step, between.step) == (20, 0, 0)
    for name, value in named_parameters(first.model).items():
        np.testing.assert_array_equal(value, named_parameters(second.model)[name], name)
    np.testing.assert_array_equal(second.logits(TOKENS), between.logits(TOKENS))
    # The run's experts are the slow reference, which adds in another order.
    np.testing.assert_allclose(first.logits(TOKENS), second.logits(TOKENS), atol=2e-6)
    assert first.generate("def ", 4, 0.0) == second.generate("def ", 4, 0.0)


def test_a_checkpoint_of_a_run_is_chosen(tmp_path, capsys):
    config = tiny.config()
    run = RunDirectory(tmp_path / "run")
    run.begin(config, resolve_tokenizer("bytes").description())
    models = {step: tiny.model(config.model, seed=step) for step in (3, 5)}
    with Checkpoints(run.checkpoints, keep=2) as checkpoints:
        for step, model in models.items():
            checkpoints.save(step, {"parameters": named_parameters(model)}, {})
    for step, more in {3: ["--step=3"], 5: []}.items():
        convert(run.path, tmp_path / f"of_{step}", *more)
        assert f"step {step} of {run.path}" in capsys.readouterr().out
        head = cmoe.load(tmp_path / f"of_{step}").model.head[...]
        np.testing.assert_array_equal(head, models[step].head[...])
    message = message_of(convert, run.path, tmp_path / "of_4", "--step=4")
    assert message.endswith("there are 3, 5")
    message = message_of(convert, tmp_path / "of_3", tmp_path / "back", "--step=3")
    assert message.startswith("--step=3 is not allowed: ")


def test_a_converted_run_is_evaluated_like_any_other(finished_run, tmp_path):
    convert(finished_run.workdir, tmp_path / "theirs")
    convert(tmp_path / "theirs", tmp_path / "again", "--tokenizer=bytes")
    (tmp_path / "corpus.txt").write_text(tiny.TEXT[:3000])
    asked = Asked(f"text:{tmp_path / 'corpus.txt'}", max_tokens=0)
    first = evaluate_run(finished_run.workdir, asked=asked)
    again = evaluate_run(tmp_path / "again", asked=asked)
    assert again["loss"] == pytest.approx(first["loss"], rel=1e-6)


def test_training_does_not_continue_a_converted_run(tmp_path):
    official_files.method_folder(tmp_path / "theirs", "cartesian")
    convert(tmp_path / "theirs", tmp_path / "run", "--tokenizer=bytes")
    with Checkpoints(tmp_path / "run/checkpoints", read_only=True) as checkpoints:
        message = message_of(checkpoints.restore, 0, {"optimizer": {}})
    assert message.endswith("run/checkpoints/0 cannot be read: it holds no optimizer")


def test_the_files_of_tokenizers_travel(tmp_path):
    file = tokenizer_files.bpe_file(tmp_path)
    official_files.method_folder(tmp_path / "theirs", "smoe_share")
    convert(tmp_path / "theirs", tmp_path / "run", f"--tokenizer={file}")
    convert(tmp_path / "run", tmp_path / "back", "--dtype=bfloat16")
    assert (tmp_path / "back/tokenizer.json").read_bytes() == file.read_bytes()
    values = json.loads((tmp_path / "back/config.json").read_text())
    assert values["torch_dtype"] == "bfloat16"
    assert values["eos_token_id"] == resolve_tokenizer(str(file)).end_of_text
    lm = cmoe.load(tmp_path / "back")
    assert lm.generate("abc", max_new_tokens=2).startswith("abc")
    convert(tmp_path / "back", tmp_path / "again")
    assert cmoe.load(tmp_path / "again").tokenizer.vocab_size == 300


@pytest.mark.parametrize("kind", ["json", "sentencepiece"])
def test_texts_end_as_the_config_says(tmp_path, kind):
    theirs = tmp_path / "theirs"
    official_files.method_folder(theirs, "smoe_share")
    if kind == "json":
        tokenizer_files.bpe_file(theirs)
    else:
        (theirs / "tokenizer.model").write_bytes(tokenizer_files.sentencepiece_model())
    usual = resolve_tokenizer(str(theirs)).end_of_text
    values = json.loads((theirs / "config.json").read_text())

    def with_end(token):
        (theirs / "config.json").write_text(json.dumps(values | {"eos_token_id": token}))

    other = 1 if usual != 1 else 0  # "<s>" of SentencePiece
    with_end(other)
    convert(theirs, tmp_path / "run")
    convert(tmp_path / "run", tmp_path / "back")
    assert json.loads((tmp_path / "back/config.json").read_text())["eos_token_id"] == other
    identities = [cmoe.load(tmp_path / n).tokenizer.identity() for n in ("theirs", "run", "back")]
    assert identities[0] == identities[1] == identities[2]
    assert identities[0]["end_of_text"] == other != usual
    with_end(10**6)
    assert "token id 1000000 is none that can end texts in" in message_of(cmoe.load, theirs)
    with_end(None)
    assert cmoe.load(theirs).tokenizer.end_of_text == usual


def test_text_needs_a_tokenizer_and_logits_do_not(tmp_path):
    folder = tmp_path / "theirs"
    official_files.method_folder(folder, "dense")
    lm = cmoe.load(folder)
    assert lm.logits(TOKENS).shape == (1, 16, 384)
    assert "text needs a tokenizer" in message_of(lm.generate, "def ")
    assert "text needs a tokenizer" in message_of(lm.generate, [1, 2])
    assert cmoe.load(folder, tokenizer="bytes").generate("def ", 2).startswith("def ")


def test_wrong_requests_are_errors_and_leave_nothing(tmp_path, finished_run):
    theirs, run, target = tmp_path / "theirs", finished_run.workdir, tmp_path / "to"
    official_files.golden_folder(theirs, "hash_from1")
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.iterdir())
    assert "holds no tokenizer.json" in message_of(convert, theirs, target)
    small = message_of(convert, theirs, target, "--tokenizer=bytes")
    assert "vocab_size=97 is not allowed" in small
    assert "has its own" in message_of(convert, run, target, "--tokenizer=bytes")
    assert "--dtype=int8 is not allowed" in message_of(convert, run, target, "--dtype=int8")
    assert "is not empty" in message_of(convert, run, theirs)
    assert "holds no run" in message_of(convert, tmp_path / "empty", target)
    assert "a run has its own" in message_of(cmoe.load, run, tokenizer="bytes")
    assert "step=3 has no checkpoint" in message_of(cmoe.load, theirs, 3)
    assert sorted(tmp_path.iterdir()) == before


def test_a_run_that_cannot_be_said_leaves_nothing(tmp_path):
    config = tiny.config(model={"moe": {"layer": "stacked"}})
    parameters = named_parameters(tiny.model(config.model))
    tokenizer = resolve_tokenizer("bytes").description()
    write_run(RunDirectory(tmp_path / "run"), config, parameters, tokenizer, source="a test")
    message = message_of(convert, tmp_path / "run", tmp_path / "to")
    assert message.startswith("config.model.moe.layer='stacked' cannot be said")
    assert [file.name for file in tmp_path.iterdir()] == ["run"]
