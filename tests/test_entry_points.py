"""train.py and eval.py as a user calls them; what is wrong is one line, and leaves nothing."""

import dataclasses
import sys

import pytest

from cartesian_moe_jax import config as schema
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.kernels.native_library import build_native_library
from cartesian_moe_jax.runs.metric_records import read_metrics
from cartesian_moe_jax.training.loop import train
from tests import processes
from tests.processes import BASE

WRONG_FIELDS = [
    ({"model": {"moe": {"top_k": 5}}}, "config.model.moe.top_k=5 .*num_experts=4"),
    ({"model": {"num_heads": 3}}, "config.model.num_heads=3 .*d_model=16"),
    ({"model": {"d_modle": 16}}, "config.model.d_modle is not a field; did you mean 'd_model'"),
    ({"parallel": {"layout": "ring"}}, "config.parallel.layout='ring' .*data, expert, expert_fsdp"),
    ({"parallel": {"data": 3}}, "config.parallel has data=3, .*does not fit 8 devices"),
    ({"parallel": {"layout": "expert", "data": 1, "expert": 8}}, "experts=4 .*'expert' of size 8"),
    ({"model": {"activation": "tanh"}}, "config.model.activation='tanh' .*geglu"),
    ({"model": {"remat": "some"}}, "config.model.remat='some' .*dots, full, none"),
    ({"model": {"moe": {"backend": "cuda"}}}, "config.model.moe.backend='cuda' .*auto, .*tiled"),
    ({"model": {"vocab_size": 256}}, "config.model.vocab_size=256 .*257"),
    ({"optimizer": {"name": "adam"}}, "config.optimizer.name='adam' .*adamw, sgd"),
    ({"optimizer": {"warmup_steps": 12}}, "warmup_steps=12 .*config.training.steps=12"),
    ({"training": {"batch_size": 12}}, "batch_size=12 .*1 x 8"),
    ({"data": {"tokenizer": "words"}}, "data.tokenizer='words' .*bytes"),
    ({"data": {"corpus": "text:/nowhere/*.txt"}}, "'/nowhere/.*no files found"),
    ({"data": {"corpus": "ftp:there"}}, "data.corpus='ftp' .*python_stdlib, text, tfds"),
]

PROGRESS = ("step ", "preparing text:", "train  ", "validation  ", "reading", "tokenising")

WRONG_TEXTS = {
    "empty": (b" \n\n", "has no text"),
    "shorter than one window": (b"def f(): 1", r"'train' .* fewer than one window .* = 17"),
    "without validation text": (
        b"12345678",
        r"validation_share=0.05 leaves the validation split .* without",
    ),
    "not UTF-8": (b"caf\xe9 au lait" * 9, "corpus.txt is not UTF-8 text: bad byte at offset 3"),
}


def assert_refused(tmp_path, words, **sections):
    """Training raises one line, before anything is written to the run directory."""
    values = processes.values(tmp_path, **sections)
    values["parallel"] = {"data": -1} | sections.get("parallel", {})
    with pytest.raises(UserError, match=words) as caught:
        train(schema.read(values), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("sections, words", WRONG_FIELDS)
def test_a_wrong_field_is_refused_before_anything_is_written(tmp_path, sections, words):
    assert_refused(tmp_path, words, **sections)


@pytest.mark.parametrize("text", WRONG_TEXTS)
def test_a_corpus_that_cannot_be_trained_on_is_refused_before_anything_is_written(tmp_path, text):
    content, words = WRONG_TEXTS[text]
    (tmp_path / "corpus.txt").write_bytes(content)
    seq_len = 4 if "validation" in text else 16
    assert_refused(tmp_path, words, data={"seq_len": seq_len})


def test_a_run_of_another_config_is_left_alone(finished_run):
    before = processes.files_below(finished_run.workdir)
    data = dataclasses.replace(finished_run.config.data, seq_len=8)
    other = dataclasses.replace(finished_run.config, data=data)
    with pytest.raises(UserError, match=r"holds a run of another config \(data.seq_len: 16 -> 8\)"):
        train(other, finished_run.workdir)
    assert processes.files_below(finished_run.workdir) == before


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """How processes with wrong input end, by what is wrong; they run side by side."""
    folder = tmp_path_factory.mktemp("refused")
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    tiny = [BASE, *processes.flags(processes.values(folder, parallel={"data": -1}))]
    workdir = f"--workdir={folder / 'run'}"
    commands = {
        "unknown field": ["train.py", BASE, workdir, "--config.model.d_modle=3"],
        "missing preset": ["train.py", "--config=configs/nowhere.py", workdir],
        "not UTF-8": ["train.py", *tiny, workdir, f"--config.data.corpus=text:{folder}/latin.txt"],
        "not a number": ["train.py", BASE, workdir, "--config.model.d_model=wide"],
        "no run": ["eval.py", workdir],
        "another's preset": ["eval.py", workdir, BASE],
        "another's field": ["eval.py", workdir, "--config.model.d_model=3"],
        "a field's value": ["eval.py", workdir, "--config.evaluation.batch_size=many"],
        "no tasks": ["eval.py", workdir, "--shots=3"],
        "empty tasks": ["eval.py", workdir, "--tasks="],
        "text of tasks": ["eval.py", workdir, "--tasks=piqa", "--corpus=text:a.txt"],
    }
    running = {name: processes.start(*command) for name, command in commands.items()}
    finished = {name: processes.finish(process) for name, process in running.items()}
    assert not (folder / "run").exists()
    return finished


@pytest.mark.parametrize(
    "wrong, words",
    [
        ("unknown field", ["d_modle", "d_model"]),
        ("missing preset", ["configs/nowhere.py"]),
        ("not UTF-8", ["latin.txt", "offset 3"]),
        ("not a number", ["d_model", "wide"]),
        ("no run", ["holds no run"]),
        ("another's preset", ["--config is not allowed", "config.parallel.(layout, "]),
        ("another's field", ["--config.model.d_model is not allowed", "(batch_size, max_tokens)"]),
        ("a field's value", ["config.evaluation.batch_size", "many"]),
        ("no tasks", ["--shots=3 goes with --tasks"]),
        ("empty tasks", ["--tasks= is not allowed"]),
        ("text of tasks", ["--corpus=text:a.txt does not go with --tasks"]),
    ],
)
def test_wrong_input_is_one_line_and_status_2(refused, wrong, words):
    status, out, err = refused[wrong]
    assert status == 2, err
    assert out == ""
    *progress, last = err.splitlines()
    assert all(line.startswith(PROGRESS) for line in progress)
    assert last.startswith("error: ")
    for word in words:
        assert word in last


def test_training_shows_progress_and_a_summary(finished_run):
    _, out, err = finished_run.ended
    assert "step 20/20" in err
    assert "loss" in err
    assert all(line.startswith(PROGRESS) for line in err.splitlines() if line)
    for words in ("validation   perplexity", "baseline", "  | def ", "try next"):
        assert words in out
    assert str(finished_run.workdir) in out


def test_a_run_leaves_all_that_is_needed_to_judge_it(finished_run):
    run, result = finished_run.workdir, finished_run.result
    assert result["steps"] == 20
    assert result["tokens"] == 20 * 8 * 16
    assert 0 < result["active_parameters"] < result["parameters"]
    assert set(result["validation"]) == {
        "loss",
        "perplexity",
        "byte_perplexity",
        "word_perplexity",
        "bits_per_byte",
        "tokens",
    }
    assert 0 < result["baseline"]["bits_per_byte"] < 8
    assert result["machine"]["devices"] == 8
    validations = [r for r in read_metrics(run / "metrics.jsonl") if "validation/loss" in r]
    assert [(r["step"], r["validation/loss"]) for r in validations] == [
        (20, result["validation"]["loss"])
    ]
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["20"]
    assert {path.name for path in run.iterdir()} - {"evaluation.json"} == {
        "checkpoints",
        "config.json",
        "metrics.jsonl",
        "result.json",
        "tensorboard",
        "tokenizer.json",
    }


def test_a_finished_run_says_that_it_is_done_and_eval_measures_it_again(finished_run):
    workdir = f"--workdir={finished_run.workdir}"
    again = processes.start(*finished_run.command, workdir)
    evaluation = processes.start("eval.py", workdir, "--config.evaluation.batch_size=8")
    status, out, _ = processes.finish(again)
    assert status == 0
    assert f"{finished_run.workdir} is done" in out
    assert "validation   perplexity" in out
    status, out, err = processes.finish(evaluation)
    assert status == 0, err
    assert str(finished_run.result["validation"]["perplexity"]) in out


@pytest.mark.long
def test_no_space_for_a_checkpoint_is_one_line_and_status_2(finished_run, tmp_path):
    build_native_library()  # which is larger than the limit, if it is not there
    # A checkpoint's files have 50 kB and more; 30 kB are enough for all the others.
    limited = ["bash", "-c", 'ulimit -f 30; exec "$@"', "bash", sys.executable]
    arguments = [*finished_run.command, f"--workdir={tmp_path / 'run'}"]
    status, _, err = processes.finish(processes.start(*arguments, python=limited))
    assert status == 2, err
    *progress, last = err.splitlines()
    assert last.startswith("error: a checkpoint could not be written to "), err
    assert not [line for line in progress if line and not line.startswith(PROGRESS)]
    assert not (tmp_path / "run" / "result.json").exists()
    assert not any(path.name.isdigit() for path in (tmp_path / "run" / "checkpoints").iterdir())
