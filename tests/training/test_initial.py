"""A run that begins with the parameters of another: where they lie, and what must be the same."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from cartesian_moe_jax import config as schema
from cartesian_moe_jax.data import ByteTokenizer
from cartesian_moe_jax.data.tokenizers import resolve_tokenizer
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.interop.convert import convert
from cartesian_moe_jax.runs.directory import RunDirectory
from cartesian_moe_jax.runs.metrics_log import read_metrics
from cartesian_moe_jax.runs.parameters import load_run
from cartesian_moe_jax.settings import describe
from cartesian_moe_jax.training.initial import NOT_OF_WHAT_IS_COMPUTED, Initial
from cartesian_moe_jax.training.loop import prepare, train
from cartesian_moe_jax.training.summary import summary
from cartesian_moe_jax.training.trainer import Trainer
from tests import official_files, processes, several, tiny, tokenizer_files
from tests.messages import message_of

LAYOUTS = [
    {"layout": "data", "data": 8},
    {"layout": "expert_fsdp", "data": 1, "fsdp": 2, "expert": 4},
    {"layout": "expert_tensor", "data": 2, "expert": 2, "tensor": 2},
]


def config_of(folder, source, **sections):
    """A run of four steps at a constant rate, on other text than the source's."""
    text = folder / "other.txt"
    if not text.exists():
        text.write_text(tiny.TEXT.replace("def ", "class "))
    sections = tiny.merged({"parallel": {"data": -1}}, sections)
    values = processes.values(folder, **sections)
    values["data"]["corpus"] = f"text:{text}"
    values["training"] |= {"initial": str(source), "log_every": 1}
    values["optimizer"] |= {"schedule": "constant", "warmup_steps": 0}
    return schema.read(values)


def assert_begins_with(config, parameters):
    """The state before the first step has these parameters, split as the layout says."""
    tokenizer = ByteTokenizer()
    trainer = Trainer(config, prepare(config, tokenizer))
    with jax.set_mesh(trainer.mesh):
        given = Initial(config, tokenizer).read(trainer.abstract.parameters)
        state = trainer.create_state_of(given)
    assert all(value.is_deleted() for value in given.values()), "the model is there twice"
    assert int(state.step) == 0
    assert not any(np.abs(leaf).max() for leaf in jax.tree.leaves(state.optimizer))
    assert state.parameters.keys() == parameters.keys()
    for name, value in state.parameters.items():
        np.testing.assert_array_equal(value, parameters[name], name)
    where = jax.tree.map(lambda leaf: leaf.sharding, (state, trainer.abstract))
    assert where[0] == where[1]


@pytest.mark.parametrize("parallel", LAYOUTS, ids=lambda p: p["layout"])
def test_parameters_of_a_run_lie_as_the_layout_says(finished_run, tmp_path, parallel):
    config = config_of(tmp_path, finished_run.workdir, parallel=parallel)
    assert_begins_with(config, load_run(RunDirectory(finished_run.workdir))[1])


@pytest.mark.parametrize("parallel", LAYOUTS[1:], ids=lambda p: p["layout"])
def test_parameters_of_an_official_checkpoint_lie_as_the_layout_says(tmp_path, parallel):
    theirs, parameters = official_files.method_folder(tmp_path / "theirs", "cartesian")
    model = dataclasses.asdict(theirs.model)
    config = config_of(tmp_path, tmp_path / "theirs", parallel=parallel, model=model)
    assert_begins_with(config, parameters)


def test_the_source_is_read_once_and_known_for_ever(finished_run, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(finished_run.workdir, source)
    config = config_of(tmp_path, f"{source}@20", training={"steps": 2})
    result = train(config, tmp_path / "run").result
    facts = {"from": str(source), "step": 20}
    assert result["initial"] == facts
    assert (result["steps"], result["tokens"]) == (2, 2 * 8 * 16)
    assert RunDirectory(tmp_path / "run").config().training.initial == f"{source}@20"
    first = next(iter(read_metrics(tmp_path / "run/metrics.jsonl")))
    assert first["step"] == 1 and first["loss"] < 4.5 < np.log(257)

    shutil.rmtree(source)
    longer = dataclasses.replace(config, training=dataclasses.replace(config.training, steps=3))
    result = train(longer, tmp_path / "run").result
    assert result["initial"] == facts and result["steps"] == 3
    assert f"begun with   step 20 of {source}" in summary(result, tmp_path / "run")
    words = rf"initial={source}@20: {source} holds no run"
    with pytest.raises(UserError, match=words):
        train(config, tmp_path / "another")
    assert not (tmp_path / "another").exists()


def test_a_run_of_its_own_seed_says_so(finished_run):
    assert finished_run.result["initial"] is None
    assert "begun with" not in summary(finished_run.result, finished_run.workdir)


def test_what_computes_otherwise_is_said(finished_run, tmp_path, capsys):
    moe = {"top_k": 1, "backend": "tiled"}
    config = config_of(tmp_path, finished_run.workdir, model={"rope_base": 500.0, "moe": moe})
    lines = Initial(config, ByteTokenizer()).lines()
    assert lines[0] == f"initial     step 20 of {finished_run.workdir}"
    changes = "model.rope_base: 10000.0 -> 500.0; model.moe.top_k: 2 -> 1"
    assert lines[1:] == [f"note: the model computes otherwise: {changes}"]
    assert len(Initial(config_of(tmp_path, finished_run.workdir), ByteTokenizer()).lines()) == 1


def test_what_is_left_out_of_the_note_are_fields():
    known = {line.split(" = ")[0].removeprefix("config.") for line in describe(schema.Config)}
    assert known >= NOT_OF_WHAT_IS_COMPUTED


def refused(folder, source, tokenizer=None, **sections):
    config = config_of(folder, source, **sections)
    return message_of(Initial, config, tokenizer or ByteTokenizer())


def test_what_does_not_fit_is_one_line(finished_run, tmp_path):
    run = finished_run.workdir
    wide = refused(tmp_path, run, model={"d_ff": 32, "moe": {"d_expert": 20}})
    assert f"config.training.initial={run}: checkpoint {run}/checkpoints/20 does not fit" in wide
    assert "experts/down is float32[1, 4, 12, 16], wanted float32[1, 4, 20, 16]" in wide
    assert "step=3 has no checkpoint in" in refused(tmp_path, f"{run}@3")
    assert f"{tmp_path}/nowhere holds no run" in refused(tmp_path, tmp_path / "nowhere")
    (tmp_path / "begun").mkdir()
    shutil.copy(run / "config.json", tmp_path / "begun")
    assert "holds no complete checkpoint" in refused(tmp_path, tmp_path / "begun")
    bpe = tokenizer_files.bpe_file(tmp_path)
    other = resolve_tokenizer(str(bpe))
    message = refused(tmp_path, run, other, data={"tokenizer": str(bpe)})
    assert f"config.training.initial={run} has the tokenizer bytes (257 tokens), but" in message
    assert "they must be the same" in message


def test_what_does_not_fit_of_an_official_checkpoint_is_one_line(tmp_path):
    theirs, _ = official_files.method_folder(tmp_path / "theirs", "cartesian")
    model = dataclasses.asdict(theirs.model)
    sections = {"model": tiny.merged(model, {"moe": {"d_expert": 20}})}
    message = refused(tmp_path, tmp_path / "theirs", **sections)
    assert f"{tmp_path}/theirs does not fit the config: " in message
    assert "wanted float32[1, 4, 20, 16]" in message
    assert "step=2 has no checkpoint" in refused(tmp_path, f"{tmp_path}/theirs@2", model=model)
    tokenizer_files.bpe_file(tmp_path / "theirs")
    message = refused(tmp_path, tmp_path / "theirs", model=model)
    assert "has the tokenizer bpe" in message and "they must be the same" in message


@pytest.mark.long
def test_several_processes_begin_with_one_model(finished_run, tmp_path):
    """Of a run, and of the same in the official format: each process reads its part."""
    official = tmp_path / "official"
    convert(finished_run.workdir, official)
    expert = ["--config.parallel.data=2", "--config.parallel.expert=4"]
    few = ["--config.training.steps=3", "--config.optimizer.schedule=constant"]
    losses = []
    for source, more, count in (
        (finished_run.workdir, ["--config.parallel.data=8"], 1),
        (f"{finished_run.workdir}@20", ["--config.parallel.layout=expert", *expert], 2),
        (official, ["--config.parallel.layout=expert", *expert], 2),
    ):
        workdir = tmp_path / f"run_{len(losses)}"
        flags = [*few, *more, f"--config.training.initial={source}", f"--workdir={workdir}"]
        told = several.by_flags if count > 1 else several.by_nothing
        several.run(count, *finished_run.command, *flags, told=told)
        records = read_metrics(workdir / "metrics.jsonl")
        losses.append([r["loss"] for r in records if "loss" in r])
    assert len(losses[0]) == 3
    for other in losses[1:]:
        assert other == pytest.approx(losses[0], rel=1e-5)
    longer = [*flags, "--config.training.steps=4"]
    several.run(2, *finished_run.command, *longer, told=several.by_flags)
    assert json.loads((workdir / "result.json").read_text())["steps"] == 4
