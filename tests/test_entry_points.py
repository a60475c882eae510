"""train.py and eval.py as a user calls them; what is wrong is one line, and leaves nothing."""

import json
import resource

import pytest

from cartesian_moe_jax import config as schema
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.training.loop import train
from tests import processes

BASE = "--config=configs/base.py"

WRONG_FIELDS = [
    ({"parallel": {"layout": "ring"}}, "config.parallel.layout='ring' .*data, expert, fsdp"),
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

WRONG_TEXTS = {
    "empty": (b" \n\n", "has no text"),
    "shorter than one window": (b"def f(): 1", r"'train' .* fewer than one window .* = 17"),
    "without validation text": (b"12345678", r"'validation' has 0 tokens"),
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
    other = {**finished_run.values, "data": {**finished_run.values["data"], "seq_len": 8}}
    with pytest.raises(UserError, match=r"holds a run of another config \(data.seq_len: 16 -> 8\)"):
        train(schema.read(other), finished_run.workdir)
    assert processes.files_below(finished_run.workdir) == before


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """How processes with wrong input end, by what is wrong; they run side by side."""
    folder = tmp_path_factory.mktemp("refused")
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    tiny = [BASE, *processes.flags(processes.values(folder))]
    workdir = f"--workdir={folder / 'run'}"
    commands = {
        "unknown field": ["train.py", BASE, workdir, "--config.model.d_modle=3"],
        "unknown section": ["train.py", BASE, workdir, "--config.modle.d_model=3"],
        "missing preset": ["train.py", "--config=configs/nowhere.py", workdir],
        "too many chosen": ["train.py", *tiny, workdir, "--config.model.moe.top_k=5"],
        "not UTF-8": ["train.py", *tiny, workdir, f"--config.data.corpus=text:{folder}/latin.txt"],
        "not a number": ["train.py", BASE, workdir, "--config.model.d_model=wide"],
        "no workdir": ["train.py", BASE],
        "no run": ["eval.py", workdir],
    }
    running = {name: processes.start(*command) for name, command in commands.items()}
    finished = {name: processes.finish(process) for name, process in running.items()}
    assert not (folder / "run").exists()
    return finished


@pytest.mark.parametrize(
    "wrong, words",
    [
        ("unknown field", ["d_modle", "d_model"]),
        ("unknown section", ["modle"]),
        ("missing preset", ["configs/nowhere.py"]),
        ("too many chosen", ["config.model.moe.top_k=5", "num_experts=4"]),
        ("not UTF-8", ["latin.txt", "offset 3"]),
        ("not a number", ["d_model", "wide"]),
        ("no workdir", ["workdir"]),
        ("no run", ["holds no run"]),
    ],
)
def test_wrong_input_is_one_line_and_status_2(refused, wrong, words):
    status, out, err = refused[wrong]
    assert status == 2, err
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two steps by train.py: its folder, its command, and how the process ended."""
    folder = tmp_path_factory.mktemp("trained")
    values = processes.values(folder, training={"steps": 2}, optimizer={"warmup_steps": 1})
    command = ["train.py", BASE, *processes.flags(values)]
    ended = processes.finish(processes.start(*command, f"--workdir={folder / 'run'}"))
    assert ended.status == 0, ended.err
    return folder, command, ended


def test_training_shows_progress_and_a_summary(trained):
    folder, _, (_, out, err) = trained
    assert "step 2/2" in err
    assert "loss" in err
    assert "Traceback" not in err
    for words in ("validation   perplexity", "baseline", "  | def ", "try next", str(folder)):
        assert words in out


def test_a_run_leaves_all_that_is_needed_to_judge_it(trained):
    run = trained[0] / "run"
    result = json.loads((run / "result.json").read_text())
    assert result["steps"] == 2
    assert result["tokens"] == 2 * 8 * 16
    assert 0 < result["active_parameters"] < result["parameters"]
    assert set(result["validation"]) == {"loss", "perplexity", "bits_per_byte", "tokens"}
    assert 0 < result["baseline"]["bits_per_byte"] < 8
    assert result["machine"]["devices"] == 1
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["2"]
    assert {path.name for path in run.iterdir()} == {
        "checkpoints",
        "config.json",
        "metrics.jsonl",
        "result.json",
        "tensorboard",
        "tokenizer.json",
    }


def test_a_finished_run_says_that_it_is_done_and_eval_measures_it_again(trained):
    folder, command, _ = trained
    workdir = f"--workdir={folder / 'run'}"
    again, evaluation = processes.start(*command, workdir), processes.start("eval.py", workdir)
    status, out, _ = processes.finish(again)
    assert status == 0
    assert f"{folder / 'run'} is done" in out
    assert "validation   perplexity" in out
    status, out, err = processes.finish(evaluation)
    assert status == 0, err
    result = json.loads((folder / "run" / "result.json").read_text())
    assert str(result["validation"]["perplexity"]) in out


def test_no_space_for_a_checkpoint_is_one_line_and_status_2(trained, tmp_path):
    _, command, _ = trained
    process = processes.start(
        *command,
        f"--workdir={tmp_path / 'run'}",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000)),
    )
    status, _, err = processes.finish(process)
    assert status == 2, err
    *progress, last = err.splitlines()
    assert last.startswith("error: a checkpoint could not be written to ")
    assert all(not line or line.startswith("step ") for line in progress)
    assert not (tmp_path / "run" / "result.json").exists()
    assert not any(path.name.isdigit() for path in (tmp_path / "run" / "checkpoints").iterdir())
