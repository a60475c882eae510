"""What a run says of its newest record and of the time that is left."""

import re
import time

import pytest

from cartesian_moe_jax.training.progress import Progress

BALANCED = {"moe/layer0/sublayer0/load_max": 1.5, "moe/layer0/sublayer1/load_max": 1.25}


@pytest.mark.parametrize(
    ("dropped", "says"), [((0.0, 0.0), False), ((0.0, 0.031), "dropped 3.1%")], ids=str
)
def test_pairs_that_an_exchange_dropped_are_said_if_there_are_any(dropped, says, capsys):
    shares = {f"moe/layer0/sublayer{i}/dropped": share for i, share in enumerate(dropped)}
    progress = Progress(10, 0)
    progress.show({"loss": 2.0, **BALANCED, **shares})
    progress.advance()
    progress._bar.refresh()
    progress.close()
    said = capsys.readouterr().err
    assert "loss 2.000  busiest expert 1.50x even" in said
    assert (says in said) if says else "dropped" not in said


def test_compilation_does_not_count(capsys):
    bar = Progress(1000, 0)
    bar._bar.mininterval = 0
    time.sleep(0.5)
    bar.advance()
    for _ in range(20):
        time.sleep(0.001)
        bar.advance()
    bar.close()
    lines = [line for line in re.split(r"[\n\r]+", capsys.readouterr().err) if "step " in line]
    first = next(line for line in lines if line.startswith("step 1/"))
    assert first.endswith("left ?")
    minutes, seconds = map(int, re.search(r"left (\d+):(\d+)$", lines[-1]).groups())
    # 20 steps a 1 ms and more; with the first one 980 would take at least 23 seconds.
    assert 60 * minutes + seconds < 20
