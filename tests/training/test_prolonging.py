"""A run that goes on to another end: as if that had been its end from the start, or not at all."""

import dataclasses
import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from cartesian_moe_jax import config as schema
from cartesian_moe_jax.runs.checkpoints import Checkpoints
from cartesian_moe_jax.runs.directory import RunDirectory
from cartesian_moe_jax.runs.metrics_log import read_metrics
from cartesian_moe_jax.runs.parameters import load_run
from cartesian_moe_jax.training.loop import train
from cartesian_moe_jax.training.prolonging import has_new_plan
from tests import processes, tiny
from tests.messages import message_of

CONSTANT = {"schedule": "constant"}
WSD = {"schedule": "wsd", "decay_steps": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("prolonging")


def config_of(folder, optimizer, steps):
    training = {"steps": steps, "log_every": 1, "checkpoint_every": 5, "keep_checkpoints": 1}
    on_all = {"optimizer": optimizer, "training": training, "parallel": {"data": -1}}
    return schema.read(processes.values(folder, **on_all))


def assert_equal_runs(ours, theirs):
    """The parameters at the end, and all that was recorded of the way but for its speed."""
    found = [load_run(RunDirectory(workdir))[1] for workdir in (ours, theirs)]
    for name, value in found[0].items():
        np.testing.assert_array_equal(value, found[1][name], name)
    names = ("step", "loss", "gradient_norm", "learning_rate")
    records = [
        [
            [r[name] for name in names]
            for r in read_metrics(workdir / "metrics.jsonl")
            if "loss" in r
        ]
        for workdir in (ours, theirs)
    ]
    assert records[0] == records[1] and len(records[0]) > 5


def test_a_prolonged_constant_run_is_the_long_one_bit_for_bit(folder):
    short, long = (config_of(folder, CONSTANT, steps) for steps in (5, 8))
    whole = train(long, folder / "whole").result
    first = train(short, folder / "prolonged").result
    assert train(short, folder / "prolonged").was_done
    result = train(long, folder / "prolonged").result
    assert_equal_runs(folder / "prolonged", folder / "whole")
    for name in ("steps", "tokens", "validation", "sample"):
        assert result[name] == whole[name]
    aside = json.loads((folder / "prolonged/result_5.json").read_text())
    assert aside == first and aside["steps"] == 5
    assert RunDirectory(folder / "prolonged").config().training.steps == 8
    assert train(long, folder / "prolonged").was_done


@pytest.mark.long
def test_a_run_goes_on_from_before_its_decay_as_the_long_one(folder):
    short, long = (config_of(folder, WSD, steps) for steps in (6, 9))
    train(long, folder / "whole_wsd")
    workdir = folder / "wsd"
    train(short, workdir)
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["3", "6"]
    before = processes.files_below(workdir)
    message = message_of(train, long, workdir)
    assert processes.files_below(workdir) == before
    assert f"{workdir} cannot go on with training.steps: 6 -> 9" in message
    assert "decays from step 4 on, and it was trained until step 6" in message
    assert "it could from step 3, if the later checkpoints were removed from" in message
    shutil.rmtree(workdir / "checkpoints/6")
    train(long, workdir)
    assert_equal_runs(workdir, folder / "whole_wsd")


COSINE = {"warmup_steps": 2}
LATE = {"schedule": "wsd", "decay_steps": 5}


@pytest.mark.parametrize(
    "kept, then, newest, words",
    [
        ((CONSTANT, 12), (CONSTANT, 40), 12, None),
        ((CONSTANT, 40), (CONSTANT, 12), 12, None),
        ((CONSTANT, 12), (WSD, 15), 12, None),
        ((WSD, 15), (CONSTANT, 40), 12, None),
        ((WSD, 20), ({**WSD, "decay_steps": 8, "final_learning_rate": 0.1}, 20), 12, None),
        ((COSINE, 20), (COSINE, 40), 2, None),
        ((COSINE, 20), (COSINE, 40), None, None),
        ((CONSTANT, 40), (CONSTANT, 11), 12, "training.steps=11 is not allowed: "),
        (
            (WSD, 14),
            (WSD, 40),
            12,
            "decays from step 12 on, and it was trained until step 12; ",
        ),
        ((COSINE, 20), (COSINE, 40), 12, "schedule cosine decays from step 3 on"),
        ((COSINE, 20), (CONSTANT, 20), 12, "schedule constant and wsd can until they decay, and"),
        ((CONSTANT, 20), (COSINE, 20), 12, "so its learning rate would decay from step 3 on, and"),
        ((CONSTANT, 20), (LATE, 16), 12, "so its learning rate would decay from step 12 on, and"),
    ],
)
def test_when_a_plan_may_change(tmp_path, kept, then, newest, words):
    run = RunDirectory(tmp_path / "run")
    run.begin(config_of(tmp_path, *kept), {})
    if newest is not None:
        with Checkpoints(run.checkpoints) as checkpoints:
            arrays = {"parameters": {"head": jnp.ones(2)}}
            checkpoints.save(newest, arrays, {})
    before = processes.files_below(run.path)
    assert not has_new_plan(run, config_of(tmp_path, *kept))
    new = config_of(tmp_path, *then)
    RunDirectory.checked(run.path, new)
    if words is None:
        assert has_new_plan(run, new)
    else:
        assert words in message_of(has_new_plan, run, new)
    assert processes.files_below(run.path) == before


def test_an_end_that_cannot_be_moved_says_what_can(finished_run):
    training = dataclasses.replace(finished_run.config.training, steps=40)
    longer = dataclasses.replace(finished_run.config, training=training)
    before = processes.files_below(finished_run.workdir)
    message = message_of(train, longer, finished_run.workdir)
    assert "training.steps: 20 -> 40: its schedule cosine decays" in message
    assert "constant and wsd" in message
    assert f"config.training.initial={finished_run.workdir} begins another run" in message
    assert processes.files_below(finished_run.workdir) == before


def test_a_finished_run_without_checkpoints_is_left_alone(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.begin(config_of(tmp_path, CONSTANT, 12), {})
    run.write_json("result.json", {"steps": 12})
    message = message_of(has_new_plan, run, config_of(tmp_path, CONSTANT, 40))
    assert message.endswith("go on with training.steps: 12 -> 40: its checkpoints are gone")


def test_other_fields_are_not_of_the_plan(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.begin(config_of(tmp_path, CONSTANT, 12), {})
    other = config_of(tmp_path, {**CONSTANT, "learning_rate": 0.5, "warmup_steps": 1}, 40)
    message = message_of(RunDirectory.checked, run.path, other)
    assert "(optimizer.learning_rate: 0.01 -> 0.5; optimizer.warmup_steps: 2 -> 1)" in message
    assert tiny.VALUES["optimizer"]["warmup_steps"] == 2
