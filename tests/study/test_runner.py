"""A study end to end: tuned, trained, measured, interrupted, continued, merged."""

import dataclasses
import json
import math
import shutil
import signal

import pytest

from cartesian_moe_jax import __main__ as command_line
from cartesian_moe_jax import config as schema
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.paths import reported
from cartesian_moe_jax.runs.metric_records import run_metrics
from cartesian_moe_jax.runs.run_lock import lock_of_run
from cartesian_moe_jax.study import runner
from cartesian_moe_jax.study.command import run_study
from cartesian_moe_jax.study.plan import model_facts
from cartesian_moe_jax.study.record import COMPARISON, TUNING, read_records, write_record
from cartesian_moe_jax.study.runner import Stopped, Study
from cartesian_moe_jax.training.loop import Outcome
from tests import processes
from tests.messages import message_of

METHODS = "cartesian,dense"
STUDY = {
    "methods": METHODS,
    "seeds": "0,1",
    "learning_rates": "5e-3,1e-2",
    "extensions": 0,
    "tuning_steps": 6,
    "robustness_tokens": 200,
}


def study_config(tmp_path, **sections):
    moe = {"d_expert": 1, "sublayers": 1}
    values = processes.values(
        tmp_path,
        model={"moe": moe},
        optimizer={"learning_rate": schema.OptimizerConfig.learning_rate},
        training={"log_every": 1},
        evaluation={"max_tokens": 500},
        parallel={"data": -1},
        study={**STUDY, **sections.pop("study", {})},
        **sections,
    )
    return schema.read(values)


def records_of(workdir):
    return {record.name: record for record in read_records(workdir / "records")}


def stopping(after, signal_number=signal.SIGINT):
    """``train`` that a signal stops before its (after + 1)-th run."""
    calls = []

    def train(config, workdir, data):
        calls.append(workdir)
        if len(calls) > after:
            return Outcome(stopped_at=1, signal=signal_number)
        return real(config, workdir, data)

    real = runner.train
    return train


class Finished:
    """A study that was interrupted twice and continued, and what was there at the first stop."""

    def __init__(self, folder):
        self.config, self.workdir = study_config(folder), folder / "study"
        self.said = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runner, "train", stopping(after=3))
            with pytest.raises(Stopped) as self.stopped:
                self.study().run()
        self.first = {file.name: file.stat().st_mtime_ns for file in self.files()}
        self.study().run()
        self.records = records_of(self.workdir)

    def study(self):
        return Study(self.config, self.workdir, self.said.append)

    def files(self):
        return (self.workdir / "records").iterdir()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return Finished(tmp_path_factory.mktemp("study"))


def test_every_method_is_tuned_and_compared_with_every_seed(finished):
    by_purpose = {TUNING: [], COMPARISON: []}
    for record in finished.records.values():
        assert not record.failed
        by_purpose[record.purpose].append((record.variant, record.seed))
    methods = METHODS.split(",")
    assert sorted(by_purpose[COMPARISON]) == sorted((m, seed) for m in methods for seed in (0, 1))
    assert sorted(by_purpose[TUNING]) == sorted((m, 1000) for m in methods for _ in range(2))


def test_a_stopped_study_keeps_what_was_made_and_continues(finished):
    assert finished.stopped.value.signal == signal.SIGINT
    assert len(finished.first) == 3
    now = {file.name: file.stat().st_mtime_ns for file in finished.files()}
    assert finished.first.items() <= now.items() and len(now) == 8


def test_a_finished_study_trains_nothing(finished, monkeypatch):
    monkeypatch.setattr(runner, "train", None)  # a call would be recorded as a failure
    finished.study().run()
    assert records_of(finished.workdir) == finished.records


def test_the_best_rate_is_taken(finished):
    for method in METHODS.split(","):
        tuning = {
            r.rates["learning_rate"]: r.validation["loss"]
            for r in finished.records.values()
            if (r.purpose, r.variant) == (TUNING, method)
        }
        compared = finished.records[f"comparison.{method}.seed0"]
        assert len(tuning) == 2
        assert compared.rates["learning_rate"] == min(tuning, key=tuning.get)


def test_a_run_is_what_its_record_says(finished):
    record = finished.records["comparison.cartesian.seed1"]
    run = finished.workdir / "runs" / record.folder
    config = schema.read(json.loads((run / "config.json").read_text()))
    assert config.training.seed == 1
    assert config.optimizer.learning_rate == record.rates["learning_rate"]
    assert record.model == model_facts(config)
    assert config.model.moe.sublayers == 2 and config.study == schema.StudyConfig()
    result = json.loads((run / "result.json").read_text())
    assert record.validation["loss"] == result["validation"]["loss"]
    assert record.tokens == 12 * 8 * 16


def test_all_methods_see_the_same_data_and_the_seeds_other_data(finished):
    """With initial weights this small the first losses differ by what is predicted alone."""
    first = {}
    for record in finished.records.values():
        if record.purpose == COMPARISON:
            run = finished.workdir / "runs" / record.folder
            losses = [r["loss"] for r in run_metrics(run) if "loss" in r]
            first.setdefault(record.seed, []).append(losses[0])
    for losses in first.values():
        assert max(losses) - min(losses) < 0.1
    hashes = {record.setting["data_hash"] for record in finished.records.values()}
    assert len(hashes) == 1


def test_the_curve_is_the_training_loss(finished):
    record = finished.records["comparison.dense.seed0"]
    run = finished.workdir / "runs" / record.folder
    losses = [r["loss"] for r in run_metrics(run) if "loss" in r]
    assert record.curve["loss"] == losses  # 12 steps are fewer than the points of a curve
    assert record.curve["tokens"][-1] == record.tokens
    assert record.curve["tokens"] == sorted(set(record.curve["tokens"]))


def test_routing_and_robustness_are_measured_where_there_are_experts(finished):
    cartesian = finished.records["comparison.cartesian.seed0"]
    dense = finished.records["comparison.dense.seed0"]
    assert dense.routing_use is None and dense.robustness is None
    assert len(cartesian.routing_use["load"][0]) == 2
    assert math.isclose(sum(sum(row) for row in cartesian.routing_use["pairs"][0][0]), 1)
    kinds = {(trial["kind"], trial["where"]) for trial in cartesian.robustness}
    assert ("none", "all") in kinds and ("disabled", "sublayer 1") in kinds


def test_runs_that_only_tune_leave_nothing_but_their_record(finished):
    kept = {folder.name for folder in (finished.workdir / "runs").iterdir()}
    assert kept == {r.folder for r in finished.records.values() if r.purpose == COMPARISON}


def test_what_is_to_come_is_said(finished):
    first = "[1/8] tuning: cartesian, seed 1000, learning rate 0.005"
    assert finished.said[0] == first
    assert any(line.startswith("[8/8] comparison: dense, seed 1") for line in finished.said)


@pytest.mark.long
def test_a_failed_method_does_not_lose_the_others(finished, tmp_path, monkeypatch):
    """And it is tried again when the study is."""
    workdir = tmp_path / "study"
    few = {"methods": "cartesian,smoe_share", "seeds": "0", "learning_rates": "1e-2"}
    config = study_config(tmp_path, study=few)

    def train(config, workdir, data):
        if config.model.moe.sublayers == 2:
            raise RuntimeError("RESOURCE_EXHAUSTED: out of\nmemory")
        return real(config, workdir, data)

    real = runner.train
    monkeypatch.setattr(runner, "train", train)
    said = []
    Study(config, workdir, said.append).run()
    records = records_of(workdir)
    assert records["comparison.cartesian.seed0"].failed == "RESOURCE_EXHAUSTED: out of memory"
    plain = records["comparison.smoe_share.seed0"]
    assert not plain.failed
    assert [len(plain.routing_use["load"]), len(plain.routing_use["load"][0])] == [1, 1]
    assert not plain.routing_use["pairs"][0]
    assert "failed: RESOURCE_EXHAUSTED: out of memory" in said

    monkeypatch.setattr(runner, "train", real)
    Study(config, workdir, said.append).run()
    assert not records_of(workdir)["comparison.cartesian.seed0"].failed


def test_a_full_disk_ends_the_study_and_is_no_failure_of_a_method(finished, tmp_path, monkeypatch):
    def train(config, workdir, data):
        with reported("written", workdir):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(runner, "train", train)
    study = Study(study_config(tmp_path), tmp_path / "study", lambda line: None)
    with pytest.raises(UserError, match="No space left on device"):
        study.run()
    assert not records_of(tmp_path / "study")


def test_a_run_in_use_ends_the_study_and_is_no_failure_of_a_method(finished, tmp_path):
    study = Study(study_config(tmp_path), tmp_path / "study", lambda line: None)
    first = "tuning.cartesian.seed1000.expert_rate=1.learning_rate=0.005"
    folder = tmp_path / "study" / "runs" / first
    folder.mkdir(parents=True)
    with lock_of_run(folder):
        assert f"--workdir={folder} is in use by process" in message_of(study.run)
    assert not records_of(tmp_path / "study")


def test_other_rates_are_another_run(finished, tmp_path):
    """A grid that has grown since may choose other rates: the comparison is made anew."""
    few = {"methods": "dense", "seeds": "0", "learning_rates": "1e-2"}
    Study(study_config(tmp_path, study=few), tmp_path / "study", lambda line: None).run()
    few["learning_rates"] = "5e-3"
    Study(study_config(tmp_path, study=few), tmp_path / "study", lambda line: None).run()
    [record] = read_records(tmp_path / "study" / "records")
    assert record.rates["learning_rate"] == 5e-3
    assert len(list((tmp_path / "study" / "runs").iterdir())) == 2


def test_rates_that_a_variant_names_are_trained_with_and_the_others_tuned(tmp_path, monkeypatch):
    """A multiplier is taken as it is, not times the tuned one, and a rate is not replaced."""

    def train(config, workdir, data):
        raise RuntimeError(f"{config.optimizer.learning_rate:g} {config.optimizer.expert_rate:g}")

    monkeypatch.setattr(runner, "train", train)
    both = "cartesian+optimizer.learning_rate=0.02+optimizer.expert_rate=3"
    few = {"methods": f"cartesian+optimizer.expert_rate=3,{both}", "seeds": "0"}
    few["expert_rates"] = "1,2"
    Study(study_config(tmp_path, study=few), tmp_path / "study", lambda line: None).run()
    found = records_of(tmp_path / "study")
    tried = {r.failed for r in found.values() if r.purpose == TUNING}
    assert tried == {"0.005 3", "0.01 3"}
    given = found[f"comparison.{both}.seed0"]
    assert given.failed == "0.02 3"
    assert given.rates == {"learning_rate": 0.02, "expert_rate": 3.0}


def test_a_diverged_run_is_a_failed_one(finished, tmp_path):
    config = study_config(
        tmp_path,
        study={"methods": "dense", "seeds": "0", "learning_rates": "1e30"},
    )
    Study(config, tmp_path / "study", lambda line: None).run()
    record = records_of(tmp_path / "study")["comparison.dense.seed0"]
    assert record.failed == "diverged: the loss or its gradient is not finite since step 3"


def test_studies_made_apart_merge(finished, tmp_path, monkeypatch):
    for seed in (0, 1):
        folder = tmp_path / f"machine{seed}" / "records"
        folder.mkdir(parents=True)
        for file in finished.files():
            if f"seed{seed}." in file.name or "tuning" in file.name:
                shutil.copy(file, folder)
    monkeypatch.setattr(runner, "train", None)
    run_study(finished.config, tmp_path / "machine0", [tmp_path / "machine1"])
    assert records_of(tmp_path / "machine0") == finished.records


def test_a_report_needs_the_records_alone(finished, tmp_path, monkeypatch):
    """No text, no tokenizer, and not the config that they were made with."""
    made = finished.study().about()
    for name in ("prepare", "resolve_tokenizer", "train"):
        monkeypatch.setattr(runner, name, None)
    for seed in (0, 1):
        folder = tmp_path / f"machine{seed}" / "records"
        folder.mkdir(parents=True)
        for file in finished.files():
            if f"seed{seed}." in file.name:
                shutil.copy(file, folder)
    bases = schema.StudyConfig(reference="dense", bases="cartesian")
    config = schema.Config(study=bases)
    run_study(config, tmp_path / "machine0", [tmp_path / "machine1"], report_only=True)
    text = (tmp_path / "machine0" / "report.md").read_text()
    assert "| minus `dense` |" in text and "| minus `cartesian` |" in text
    assert f"(hash {made['Trained on'][-9:]}" in text  # of the text that was prepared
    assert f"- Plain layer: {made['Plain layer']}" in text
    assert records_of(tmp_path / "machine0").keys() == {
        name for name in finished.records if name.startswith("comparison")
    }


def test_the_command_reports_a_folder_without_a_preset(finished, tmp_path):
    shutil.copytree(finished.workdir / "records", tmp_path / "records")
    command = ["study", f"--workdir={tmp_path}", "--bases=dense"]
    alone = command_line.parse([*command, "--report_only"])
    alone.run(alone)
    text = (tmp_path / "report.md").read_text()
    assert "| minus `dense` |" in text and "| minus `cartesian` |" not in text
    arguments = command_line.parse(command)
    assert "study needs a preset" in message_of(arguments.run, arguments)


def test_a_report_of_no_records_or_of_two_studies_is_one_line(finished, tmp_path):
    config, options = schema.Config(), {"report_only": True}
    words = message_of(run_study, config, tmp_path, **options)
    assert f"{tmp_path / 'records'} has no records: there is nothing to report" in words
    other = dataclasses.replace(
        finished.records["comparison.dense.seed0"], setting={"training.steps": 7}
    )
    write_record(tmp_path / "records", other)
    words = message_of(run_study, config, finished.workdir, [tmp_path], **options)
    assert "they cannot be compared" in words
    assert len(records_of(finished.workdir)) == len(finished.records)


def test_records_of_another_setting_are_refused(finished, tmp_path):
    other = dataclasses.replace(
        finished.config, training=dataclasses.replace(finished.config.training, steps=24)
    )
    words = message_of(Study, other, finished.workdir)
    assert "was run with training.steps=12, this study has training.steps=24" in words
    words = message_of(run_study, other, tmp_path / "other", [finished.workdir])
    assert "training.steps" in words and not (tmp_path / "other" / "records").exists()


def test_widths_and_what_deviates_are_said_before_anything_is_trained(finished):
    _, *rows = [line.split() for line in finished.study().widths().splitlines()]
    assert [row[0] for row in rows] == METHODS.split(",")
    budget = finished.study().setting
    for row in rows:
        model = finished.records[f"comparison.{row[0]}.seed0"].model
        assert row[-4] == f"{model['total_parameters'] / 1e6:.3f}"
        assert row[-1] == f"{model['active_parameters'] / budget['active_parameters'] - 1:+.2%}"
        widths = [str(model["d_expert"]), str(model["sublayers"])]
        assert row[2:4] == (widths if model["in_place"] else ["-", "-"])


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"seeds": "0,0"}, "config.study.seeds='0,0' is not allowed: different whole numbers"),
        ({"seeds": "1000"}, "none of them config.study.tuning_seed=1000"),
        ({"seeds": "-1"}, "config.study.seeds='-1' is not allowed"),
        ({"seeds": ""}, "config.study.seeds='' is not allowed"),
        ({"methods": "moe"}, "config.study.methods='moe' is unknown"),
        ({"reference": "moe"}, "config.study.reference='moe' is unknown"),
        ({"learning_rates": "high"}, "config.study.learning_rates='high' is not allowed"),
        ({"methods": "dense+training.steps=3"}, "training.steps must be the same in all"),
        ({"methods": "cartesian+model.moe.router=best"}, "config.model.moe.router='best' is unk"),
    ],
)
def test_wrong_input_is_one_line_before_anything_is_trained(tmp_path, fields, words):
    config = study_config(tmp_path, study=fields)
    assert words in message_of(Study, config, tmp_path / "study")
    assert not (tmp_path / "study").exists()
