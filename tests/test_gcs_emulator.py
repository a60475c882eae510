"""A run and its data on gs://, through the packages that reach it, to a server like Google's."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

import fsspec
import pytest
from etils.epath import backend

from cartesian_moe_jax.paths import as_path, entries, is_file, upload
from cartesian_moe_jax.runs.metrics_log import run_metrics
from tests import processes

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """Where the server is that stands behind gs://bucket; it is killed at the end."""
    folder = tmp_path_factory.mktemp("gcs")
    command = [sys.executable, "-m", "tests.gcs_emulator", "0", str(folder / "objects")]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            command, cwd=processes.ROOT, stdout=subprocess.PIPE, stderr=log, text=True
        )
    try:
        line = server.stdout.readline().strip()
        assert line.startswith("http://"), (folder / "log").read_text()
        yield line
    finally:
        server.kill()
        server.communicate()


@pytest.fixture
def on_machine(url, tmp_path, monkeypatch):
    """Lead gs:// to the server, and let processes be on one machine or another."""
    from tests.gcs_emulator import environment

    for name, value in environment(url).items():
        monkeypatch.setenv(name, value)

    def switch(name):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        return tmp_path / name / "cartesian_moe_jax" / "data"

    forget_stores()
    yield switch
    forget_stores()


def forget_stores():
    """Let this process find gs:// anew, wherever it leads."""
    fsspec.get_filesystem_class("gcs").clear_instance_cache()
    backend._FileSystemSpecBackend._get_filesystem.cache_clear()


def wait_until(is_so, seconds=60):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def read_json(file):
    return json.loads(file.read_bytes())


def losses(folder):
    """The loss and gradient norm of every recorded training step."""
    records = [r for r in run_metrics(folder) if "loss" in r]
    return [(r["step"], r["loss"], r["gradient_norm"]) for r in records]


def names(folder):
    return [path.name for path in entries(folder)]


def test_a_killed_run_goes_on_elsewhere_and_equals_a_local_one(finished_run, on_machine, tmp_path):
    run, data = as_path("gs://bucket/run"), as_path("gs://bucket/data")
    corpus = tmp_path / "corpus.txt"
    corpus.write_bytes((finished_run.workdir.parent / "corpus.txt").read_bytes())
    upload(corpus, as_path("gs://bucket/corpus/deep/corpus.txt"))
    command = [
        *finished_run.command,
        "--config.data.corpus=text:gs://bucket/corpus",
        f"--config.data.cache_dir={data}",
        "--config.training.keep_checkpoints=1",
        f"--workdir={run}",
    ]

    first = on_machine("first")
    often = ["--config.training.checkpoint_every=2", "--config.evaluation.every=3"]
    killed = processes.start(*command, *often)
    done = run / "checkpoints" / "4" / "commit_success.txt"
    try:
        wait_until(lambda: is_file(done) or killed.poll() is not None)
    finally:
        killed.kill()
    status, _, err = processes.finish(killed)
    assert status == -signal.SIGKILL, err
    assert not is_file(run / "result.json")

    second = on_machine("second")
    status, _, err = processes.finish(processes.start(*command))
    assert status == 0, err
    assert losses(run) == losses(finished_run.workdir)
    result = read_json(run / "result.json")
    for name in ("validation", "sample", "tokens", "parameters"):
        assert result[name] == finished_run.result[name]
    assert names(run / "checkpoints") == ["20"], "those that are not to be kept are removed"

    parts = names(run / "metrics")
    assert parts[0] == "000000000001.jsonl"
    assert 4 < int(parts[1].removesuffix(".jsonl")) <= 20, "it did not begin anew"
    assert len(names(run / "tensorboard")) >= 2

    (packed,) = names(data)
    assert names(data / packed) == sorted(os.listdir(first / packed))
    assert os.listdir(second) == [packed], "the second machine has read no text"

    evaluation = processes.finish(processes.start("eval.py", f"--workdir={run}"))
    assert evaluation.status == 0, evaluation.err
    assert str(finished_run.result["validation"]["perplexity"]) in evaluation.out
    assert is_file(run / "evaluation.json")


def object_url(url, name, **query):
    path = urllib.parse.quote(name, safe="")
    return f"{url}/storage/v1/b/bucket/o/{path}?{urllib.parse.urlencode(query)}"


def write(url, name, content, **query):
    query = urllib.parse.urlencode({"uploadType": "media", "name": name, **query})
    target = f"{url}/upload/storage/v1/b/bucket/o?{query}"
    return status_of(urllib.request.Request(target, content, method="POST"))


def status_of(request):
    """The status of an answer, and the generation that it names."""
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.headers["x-goog-generation"]
    except urllib.error.HTTPError as error:
        return error.code, error.headers["x-goog-generation"]


def test_an_object_is_written_and_read_only_if_it_is_of_the_generation_asked_for(url):
    status, first = write(url, "index", b"1", ifGenerationMatch=0)
    assert (status, first is None) == (200, False)
    assert write(url, "index", b"2", ifGenerationMatch=0)[0] == 412
    status, second = write(url, "index", b"3", ifGenerationMatch=first)
    assert status == 200 and second not in (None, first)
    assert status_of(object_url(url, "index", alt="media")) == (200, second)
    assert status_of(object_url(url, "index", alt="media", ifGenerationNotMatch=second))[0] == 304
    assert status_of(object_url(url, "index", alt="media", ifGenerationNotMatch=first))[0] == 200
    assert status_of(object_url(url, "none", alt="media", ifGenerationNotMatch=0))[0] == 404
    gone = urllib.request.Request(
        object_url(url, "index", ifGenerationMatch=first), method="DELETE"
    )
    assert status_of(gone)[0] == 412


def test_an_upload_that_broke_off_makes_no_object(url):
    port = urllib.parse.urlsplit(url).port
    with socket.create_connection(("127.0.0.1", port)) as connection:
        path = "/upload/storage/v1/b/bucket/o?uploadType=media&name=half"
        connection.sendall(f"POST {path} HTTP/1.1\r\nContent-Length: 9\r\n\r\nhalf".encode())
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(100) == b""
    assert status_of(object_url(url, "half"))[0] == 404
    assert write(url, "half", b"the whole")[0] == 200
    assert status_of(object_url(url, "half"))[0] == 200
