"""What a run says of its newest record."""

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
