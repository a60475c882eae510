"""A run directory in an object store: the same promises as on a disk."""

import json

import pytest

from cartesian_moe_jax.cache import cache_folder
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.paths import as_path
from cartesian_moe_jax.runs.directory import RunDirectory
from tests import tiny

pytest_plugins = ["tests.stand_in_store"]

RUN = "gs://bucket/deep/run"


def message_of(call, *arguments):
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def run(object_store):
    run = RunDirectory(as_path(RUN))
    run.begin(tiny.config(), {"kind": "bytes"})
    return run


def test_a_run_is_reopened_with_the_config_it_was_begun_with(run, object_store):
    assert RunDirectory.checked(run.path, tiny.config()).config() == tiny.config()
    assert RunDirectory.of_existing(run.path).read_json("tokenizer.json") == {"kind": "bytes"}
    assert list(object_store.objects()) == [
        "bucket/deep/run/config.json",
        "bucket/deep/run/tokenizer.json",
    ]
    assert str(run.checkpoints) == f"{RUN}/checkpoints"
    assert object_store.renamed == []


def test_another_config_is_named(run):
    other = tiny.config(data={"seq_len": 8})
    assert "data.seq_len: 16 -> 8" in message_of(RunDirectory.checked, run.path, other)


def test_checking_writes_nothing_and_makes_no_bucket(object_store):
    for path in (RUN, "gs://bucket", "gs://another/run"):
        assert not RunDirectory.checked(as_path(path), tiny.config()).has("config.json")
    assert object_store.objects() == {}
    missing = RunDirectory(as_path("gs://another/run"))
    assert "no such bucket" in message_of(missing.begin, tiny.config(), {})
    assert object_store.buckets == {"bucket"}


@pytest.mark.parametrize("name", ["bucket/deep/run/thesis.tex", "bucket/deep/run"])
def test_objects_of_something_else_are_refused_and_left_alone(object_store, name):
    object_store.put(name, b"dear")
    assert f"--workdir={RUN}" in message_of(RunDirectory.checked, as_path(RUN), tiny.config())
    assert object_store.objects() == {name: b"dear"}


def test_a_run_beside_one_whose_name_it_begins_with_is_no_run(run):
    beside = as_path("gs://bucket/deep/ru")
    assert "no config.json" in message_of(RunDirectory.of_existing, beside)
    RunDirectory.checked(beside, tiny.config())


def test_a_damaged_file_is_one_line_that_names_it(run, object_store):
    object_store.put("bucket/deep/run/config.json", b'{"model": {"d_mo')
    message = message_of(RunDirectory.checked, run.path, tiny.config())
    assert f"{RUN}/config.json" in message


def test_a_missing_file_is_one_line_that_names_it(run):
    assert f"{RUN}/result.json" in message_of(run.read_json, "result.json")


def test_json_is_written_whole_or_not_at_all(run, object_store):
    run.write_json("result.json", {"loss": 1.5})
    with pytest.raises(TypeError):
        run.write_json("result.json", {"loss": 2.5, "curve": object()})
    assert json.loads(object_store.objects()["bucket/deep/run/result.json"]) == {"loss": 1.5}


@pytest.mark.parametrize("failure", [PermissionError("Forbidden"), RuntimeError("401\nno")])
def test_a_store_out_of_reach_is_not_taken_for_an_empty_one(run, object_store, failure):
    object_store.failure = failure
    for call in (
        lambda: RunDirectory.of_existing(run.path),
        lambda: RunDirectory.checked(run.path, tiny.config()),
        lambda: run.write_json("result.json", {}),
    ):
        message = message_of(call)
        assert RUN in message and str(failure).split("\n")[0] in message
        assert "holds no run" not in message


@pytest.mark.parametrize("path", ["s3://bucket/run", "az://bucket/run"])
def test_a_store_that_orbax_cannot_write_to_is_refused_at_once(path):
    message = message_of(RunDirectory.checked, as_path(path), tiny.config())
    assert f"--workdir={path}" in message and "gs://" in message


def test_a_cache_folder_may_be_remote(monkeypatch):
    assert str(cache_folder("gs://bucket/cache", "xla")) == "gs://bucket/cache"
    monkeypatch.setenv("XDG_CACHE_HOME", "gs://bucket/home")
    assert str(cache_folder("", "xla")) == "gs://bucket/home/cartesian_moe_jax/xla"
