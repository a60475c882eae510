import ast
import inspect
import json
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Pipe
from pathlib import Path

import numpy as np
import pytest

from cartesian_moe_jax.data import jobs, worker
from cartesian_moe_jax.data.jobs import Worker, run_jobs
from cartesian_moe_jax.errors import UserError

ROOT = Path(__file__).parents[2]
WORKERS = pytest.mark.parametrize("workers", [1, 3])


class Echo:
    """A job for tests: it does what a request says."""

    def __init__(self, settings):
        if settings.get("fail") == "start":
            raise UserError("cannot start")
        if settings.get("fail") == "exit":
            os._exit(3)
        self.settings = settings

    def __call__(self, request, report):
        what, value = request["what"], request.get("value")
        if what == "sleep":
            time.sleep(value)
        elif what == "wrong":
            raise UserError(value)
        elif what == "refused":
            raise OSError(28, "No space left on device", value)
        elif what == "crash":
            raise ZeroDivisionError(value)
        elif what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif what == "print":
            print("noise on standard output")
            print("noise on standard error", file=sys.stderr)
        elif what == "report":
            for count in value:
                report({"count": count})
        arrays = [np.arange(size, dtype=dtype) for size, dtype in request.get("arrays", [])]
        reply = {"request": request, "settings": self.settings, "process": os.getpid()}
        return reply | {"jax": "jax" in sys.modules}, arrays


@pytest.fixture(autouse=True)
def echo(monkeypatch):
    """Adds the job; a worker of its own process finds it by the patched table, too."""
    table = jobs.JOBS | {"echo": "tests.data.test_jobs:Echo"}
    monkeypatch.setattr(jobs, "JOBS", table)
    program = (
        "import sys\n"
        "from multiprocessing.connection import Connection\n"
        "from cartesian_moe_jax.data import jobs, worker\n"
        f"jobs.JOBS = {dict(table)!r}\n"
        "try:\n"
        "    worker.serve(Connection(int(sys.argv[1])))\n"
        "except (EOFError, OSError):\n"
        "    sys.exit()\n"
    )
    popen, started = subprocess.Popen, []

    def patched(command, **options):
        if command[1:3] != ["-m", "cartesian_moe_jax.data.worker"]:
            return popen(command, **options)
        process = popen([sys.executable, "-c", program, *command[3:]], **options)
        started.append(process)
        return process

    monkeypatch.setattr(jobs.subprocess, "Popen", patched)
    yield started
    for process in started:
        assert process.returncode is not None, "every worker was waited for"
        assert not Path(f"/proc/{process.pid}").exists(), "and none is left as a zombie"


def run(*requests, workers, settings=None, report=lambda message: None):
    return run_jobs("echo", settings or {}, requests, workers, report)


@WORKERS
def test_replies_come_in_the_order_of_the_requests(workers, echo):
    requests = [{"what": "sleep", "value": 0.02 * (i % 3), "number": i} for i in range(12)]
    replies = list(run(*requests, workers=workers, settings={"a": [1, "é"]}))
    assert [reply["request"] for reply, _ in replies] == requests
    assert all(reply["settings"] == {"a": [1, "é"]} for reply, _ in replies)
    processes = {reply["process"] for reply, _ in replies}
    assert (os.getpid() in processes) == (workers == 1)
    assert len(echo) == (workers if workers > 1 else 0)
    assert processes <= {process.pid for process in echo} | {os.getpid()}


@WORKERS
def test_arrays_arrive_as_they_were_sent(workers):
    arrays = [(0, "<u2"), (5, "<u2"), (3, "<u4"), (300_000, "<u4"), (0, "<f8")]
    for _, received in run(*[{"what": "", "arrays": arrays}] * 4, workers=workers):
        assert [(array.size, array.dtype.str) for array in received] == arrays
        for array in received:
            np.testing.assert_array_equal(array, np.arange(array.size))


def test_no_request_and_one_request_need_no_process(echo):
    assert list(run(workers=3)) == []
    ((reply, _),) = run({"what": ""}, workers=3)
    assert reply["process"] == os.getpid()
    assert echo == []


def test_workers_are_not_more_than_requests(echo):
    assert len(list(run({"what": ""}, {"what": ""}, workers=5))) == 2
    assert len(echo) == 2


def test_a_worker_does_not_run_the_main_module_of_the_caller(tmp_path):
    program = (
        "import sys\n"
        "from cartesian_moe_jax.data.jobs import run_jobs\n"
        "assert __name__ == '__main__', 'a worker ran this again'\n"
        "settings = {'fields': ['text', ''], 'folder': sys.argv[1], 'skip_broken': False}\n"
        "print(len(list(run_jobs('read', settings, [{'files': []}] * 2, 2))))\n"
    )
    (tmp_path / "main.py").write_text(program)
    command = [sys.executable, tmp_path / "main.py", tmp_path]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("2\n", "")


def test_workers_import_no_jax():
    replies = list(run(*[{"what": ""}] * 2, workers=2))
    assert [reply["jax"] for reply, _ in replies] == [False, False]


@WORKERS
def test_what_jobs_print_does_not_get_in_the_way(workers, capfd):
    replies = list(run(*[{"what": "print"}] * 4, workers=workers))
    assert len(replies) == 4
    out, err = capfd.readouterr()
    assert ("noise" in out + err) == (workers == 1)


@WORKERS
def test_reports_arrive_one_at_a_time(workers):
    counts, inside, threads = [], threading.Lock(), set()

    def report(message):
        assert inside.acquire(blocking=False), "two reports at once"
        threads.add(threading.get_ident())
        counts.append(message["count"])
        time.sleep(0.001)
        inside.release()

    requests = [{"what": "report", "value": [i, 100 + i]} for i in range(10)]
    assert len(list(run(*requests, workers=workers, report=report))) == 10
    assert sorted(counts) == [*range(10), *range(100, 110)]


@WORKERS
def test_what_a_job_says_is_wrong_arrives_as_they_are(workers):
    replies = run(
        {"what": ""}, {"what": "wrong", "value": "file:3 é"}, {"what": ""}, workers=workers
    )
    next(replies)
    with pytest.raises(UserError) as caught:
        next(replies)
    assert str(caught.value) == "file:3 é"
    assert list(replies) == []


@WORKERS
def test_the_error_of_the_first_request_comes_first(workers):
    slow = {"what": "sleep", "value": 0.2}
    wrong = [{"what": "wrong", "value": f"error {i}"} for i in range(4)]
    with pytest.raises(UserError, match="error 0"):
        list(run(slow, *wrong, workers=workers))


@WORKERS
def test_what_the_system_refuses_arrives_as_an_os_error(workers):
    with pytest.raises(OSError) as caught:
        list(run(*[{"what": "refused", "value": "x"}] * 2, workers=workers))
    assert (caught.value.strerror or str(caught.value)) == "No space left on device"


def test_a_crash_arrives_with_its_traceback():
    with pytest.raises(RuntimeError) as caught:
        list(run(*[{"what": "crash", "value": "our mistake"}] * 3, workers=3))
    assert "ZeroDivisionError: our mistake" in str(caught.value)
    assert "test_jobs.py" in str(caught.value)
    with pytest.raises(ZeroDivisionError, match="our mistake"):
        list(run({"what": "crash", "value": "our mistake"}, workers=1))


@WORKERS
def test_a_job_that_cannot_start_says_why(workers):
    with pytest.raises(UserError, match="cannot start"):
        list(run(*[{"what": ""}] * 3, workers=workers, settings={"fail": "start"}))


def died(requests, settings=None):
    with pytest.raises(UserError) as caught:
        list(run(*requests, workers=3, settings=settings))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_worker_that_is_killed_is_one_line():
    message = died([{"what": ""}, {"what": "kill"}, *[{"what": ""}] * 10])
    assert message == (
        "a worker process died (status -9): memory may be short; fewer --workers need less"
    )


def test_a_worker_that_dies_before_it_works_is_one_line():
    large = "x" * 10_000_000  # more than the connection holds: it breaks while this is sent
    message = died([{"what": ""}] * 5, {"fail": "exit", "large": large})
    assert message.startswith("a worker process died (status 3): ")


def test_settings_may_be_large():
    settings = {"large": "é" * 2_000_000}
    replies = list(run(*[{"what": ""}] * 4, workers=3, settings=settings))
    assert all(reply["settings"] == settings for reply, _ in replies)


def test_leaving_early_kills_the_workers_at_once(echo):
    start = time.monotonic()
    replies = run({"what": ""}, *[{"what": "sleep", "value": 60}] * 20, workers=3)
    next(replies)
    assert len(echo) == 3
    assert all(process.poll() is None for process in echo)
    replies.close()
    assert [process.returncode for process in echo] == [-9] * 3
    assert time.monotonic() - start < 20
    assert not [t for t in threading.enumerate() if t.name.startswith("ThreadPoolExecutor")]


def test_an_error_kills_the_other_workers_at_once(echo):
    start = time.monotonic()
    requests = [{"what": "wrong", "value": "x"}, *[{"what": "sleep", "value": 60}] * 9]
    with pytest.raises(UserError, match="x"):
        list(run(*requests, workers=3))
    assert time.monotonic() - start < 20
    assert {process.returncode for process in echo} == {-9}


def test_replies_do_not_pile_up_behind_one_that_is_not_taken(echo, tmp_path):
    reports = []
    requests = [{"what": "report", "value": [i]} for i in range(40)]
    replies = run(*requests, workers=2, report=lambda m: reports.append(m["count"]))
    next(replies)
    time.sleep(0.3)
    assert len(reports) <= 6
    assert len(list(replies)) == 39
    assert sorted(reports) == list(range(40))


def test_a_worker_ends_with_its_parent(tmp_path):
    """Also where the parent has no time to end it."""
    program = (
        "import os, signal, sys\n"
        "from cartesian_moe_jax.data.jobs import Worker\n"
        "made = Worker('read', {'fields': ['text', ''], 'folder': sys.argv[1],"
        " 'skip_broken': False})\n"
        "made.ask({'files': []}, print)\n"
        "print(made._process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    pid = int(done.stdout.splitlines()[-1])
    deadline = time.monotonic() + 20
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(pid)


def _runs(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"  # who inherited it may not wait for it


def test_messages_are_no_pickles():
    """Connection.send and recv pickle; send_bytes and recv_bytes do not."""
    for module in (jobs, worker):
        tree = ast.parse(inspect.getsource(module))
        attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert "recv_bytes" in attributes
        assert not attributes & {"send", "recv"}
        names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        assert not names & {"pickle", "cloudpickle", "dill", "marshal"}


def test_what_is_sent_is_json_and_plain_buffers():
    here, there = Pipe()
    jobs.send_reply(there, ({"a": 1}, [np.array([1, 2], "<u2"), np.empty(0, "<u4")]))
    header, *buffers = (here.recv_bytes() for _ in range(3))
    assert json.loads(header) == {"reply": {"a": 1}, "arrays": ["<u2", "<u4"]}
    assert buffers == [b"\1\0\2\0", b""]


def test_a_worker_is_one_thread_of_libraries(monkeypatch, echo):
    monkeypatch.setenv("RAYON_NUM_THREADS", "8")
    with Worker("echo", {}) as made:
        made.ask({"what": ""}, print)
        environment = Path(f"/proc/{echo[0].pid}/environ").read_bytes().split(b"\0")
    assert b"RAYON_NUM_THREADS=1" in environment
    assert b"TOKENIZERS_PARALLELISM=false" in environment
