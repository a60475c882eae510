"""Processes meet, or all that came learn which did not; here they are threads."""

import concurrent.futures
import socket
import time

import pytest

from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.parallel.rendezvous import meet
from tests.several import free_port


def outcomes(places, seconds, delays=None):
    """What ``meet`` says to each (index, count): nothing, or its error's line."""
    at = f"localhost:{free_port()}"

    def one(place):
        time.sleep((delays or {}).get(place[0], 0))
        try:
            meet(at, place[1], place[0], float(seconds))
        except UserError as error:
            return str(error).replace(at, "there")
        return ""

    with concurrent.futures.ThreadPoolExecutor(len(places)) as pool:
        return list(pool.map(one, places))


@pytest.mark.parametrize("late", [0, 2])
def test_all_meet_whoever_is_late(late):
    assert outcomes([(i, 4) for i in range(4)], 20, {late: 0.3}) == [""] * 4


def test_all_that_came_learn_who_did_not():
    started = time.monotonic()
    said = outcomes([(0, 5), (3, 5)], 0.5)
    assert said == ["2 of 5 processes came to there within 0.5 s: 1, 2, 4 did not"] * 2
    assert time.monotonic() - started < 5


def test_a_process_without_its_first_says_so():
    (said,) = outcomes([(1, 2)], 0.3)
    assert said.startswith("process 1 of 2 did not find process 0 at there within 0.3 s (")


@pytest.mark.parametrize(
    "places, words",
    [
        ([(0, 4), (1, 4), (1, 4)], "two processes have --process=1"),
        ([(0, 3), (1, 2)], "process 1 is one of 2, process 0 one of 3"),
    ],
)
def test_processes_that_were_told_different_things(places, words):
    assert outcomes(places, 20) == [words] * len(places)


def test_a_port_that_is_taken_is_one_line():
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(UserError, match=f"^--coordinator=localhost:{port}: process 0 cannot"):
            meet(f"localhost:{port}", 2, 0, 1.0)


def test_strangers_are_not_counted():
    port = free_port()
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        first = pool.submit(meet, f"localhost:{port}", 2, 0, 10.0)
        time.sleep(0.2)
        with socket.create_connection(("localhost", port)) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\n")
        second = pool.submit(meet, f"localhost:{port}", 2, 1, 10.0)
        assert first.result() is second.result() is None
