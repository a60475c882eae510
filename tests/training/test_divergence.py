"""A run whose loss is no number any more: it ends, and its good checkpoints stay."""

import json
import math

import pytest

from cartesian_moe_jax import config as schema
from cartesian_moe_jax.evaluation.evaluator import Evaluator
from cartesian_moe_jax.evaluation.perplexity import Evaluation, Perplexity
from cartesian_moe_jax.training.loop import train
from tests import processes
from tests.messages import message_of

ADVICE = "another --workdir with a lower config.optimizer.learning_rate"


def config_of(tmp_path, rate, **training):
    """A run whose weights step 2 moves for the first time: with a rate of 1e30 step 3 is lost."""
    optimizer = {"learning_rate": rate, "warmup_steps": 2}
    training = {"keep_checkpoints": 1, **training}
    sections = {"optimizer": optimizer, "training": training, "parallel": {"data": -1}}
    return schema.read(processes.values(tmp_path, **sections))


def numbers(workdir):
    """The records of training, which must be JSON to the letter."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=pytest.fail) for line in lines]


@pytest.mark.parametrize(
    "every, recorded",
    [
        ({"log_every": 1, "checkpoint_every": 2}, [1, 2, 3]),
        ({"log_every": 100, "checkpoint_every": 2}, [1]),
        ({"log_every": 7, "checkpoint_every": 2, "steps": 4}, [1, 4]),
    ],
    ids=["seen in a record", "seen at a checkpoint", "seen at the end"],
)
def test_a_lost_run_ends_with_one_line_and_keeps_its_good_checkpoint(tmp_path, every, recorded):
    workdir = tmp_path / "run"
    said = message_of(train, config_of(tmp_path, 1e30, **every), workdir)
    assert said.startswith(
        "the loss or its gradient is not finite since step 3; step 2 is the newest"
    )
    assert str(workdir / "checkpoints") in said and ADVICE in said
    assert [folder.name for folder in (workdir / "checkpoints").iterdir()] == ["2"]
    assert not (workdir / "result.json").exists()
    records = numbers(workdir)
    assert [record["step"] for record in records] == recorded
    lost = [record for record in records if record["step"] > 2]
    assert all(record["gradient_norm"] is None for record in lost)


def test_a_lost_run_without_a_checkpoint_says_so(tmp_path):
    said = message_of(train, config_of(tmp_path, 1e30, log_every=3), tmp_path / "run")
    assert "not finite since step 3; there is no checkpoint in" in said


@pytest.mark.long
def test_a_validation_at_the_end_that_is_lost_is_no_success(tmp_path, monkeypatch):
    lost = Evaluation({"text": Perplexity(math.nan, 100, 100.0, 10.0)}, (1.0,))
    monkeypatch.setattr(Evaluator, "perplexity", lambda self, parameters: lost)
    said = message_of(train, config_of(tmp_path, 1e-2, steps=3), tmp_path / "run")
    assert said.startswith("the validation loss after the last step is nan; step 3 is the newest")
    assert not (tmp_path / "run" / "result.json").exists()
