"""How PyTorch's model is compared with ours, with a stand-in that computes what it should."""

import numpy as np
import pytest

from benchmarks import step_parity
from tests import tiny
from tests.messages import message_of

CONFIG = tiny.config(model={"moe": {"interval": 1}})


class StandIn:
    """Returns what our steps give, but for ``off`` added to one of it."""

    def __init__(self, monkeypatch, off):
        self.off, self.asked, ours = off, [], step_parity.train_ours

        def train_ours(config, step):
            self.ours = ours(config, step)
            return self.ours

        monkeypatch.setattr(step_parity, "train_ours", train_ours)

    def train(self, file, **wanted):
        self.asked.append(wanted)
        arrays = {"logits": self.ours.logits, "losses": self.ours.losses, **self.ours.after}
        moved = {name: arrays[name] + value for name, value in self.off.items()}
        np.savez(file.with_suffix(".after.npz"), **arrays | moved)
        return file.with_suffix(".after.npz")


def test_a_model_that_learns_alike_is_a_line(monkeypatch):
    torch = StandIn(monkeypatch, {"losses": 1e-6})
    (line,) = step_parity.check(torch, ["loop"], CONFIG)
    assert line.startswith("PyTorch's loop model differs from ours by 0.0e+00 in its logits, ")
    wanted = torch.asked[0]
    assert wanted["optimizer"] | {"learning_rate": 1e-2, "warmup_steps": 2} == wanted["optimizer"]
    assert wanted["shape"]["layers"] == 2 and wanted["steps"] == len(torch.ours.losses)
    # The first rate is zero, so the first loss that a move of the weights changes is the third.
    first, second, third = torch.ours.losses
    assert first == second and third < second - 0.01


@pytest.mark.parametrize("what", ["logits", "losses", "norms.1.weight"])
def test_one_that_does_not_ends_the_comparison(what, monkeypatch):
    with pytest.raises(SystemExit, match=r"loop model differs from ours by .*: not comparable"):
        step_parity.check(StandIn(monkeypatch, {what: 1e-3}), ["loop"], CONFIG)


def test_a_config_that_pytorch_has_no_model_of_is_one_line():
    words = message_of(step_parity.shape_of, tiny.config(model={"moe": {"interval": 3}}))
    assert words == "config.model.moe.interval=3 is not allowed: PyTorch's model knows 1 alone"
