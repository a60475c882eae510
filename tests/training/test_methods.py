"""Every method of the paper: a few fields over the same modules, that trains."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cartesian_moe_jax import config as schema
from cartesian_moe_jax.config import OptimizerConfig
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.models.build import abstract_model
from cartesian_moe_jax.models.feed_forwards import moe_layers
from cartesian_moe_jax.models.methods import METHODS, PlainLayer, with_method
from cartesian_moe_jax.models.parameters import named_parameters
from cartesian_moe_jax.parallel.layouts import LAYOUTS
from cartesian_moe_jax.training.metrics import step_metrics
from cartesian_moe_jax.training.optimizer import make_optimizer
from cartesian_moe_jax.training.state import init_state
from cartesian_moe_jax.training.step import make_train_step
from configs import paper
from tests import tiny

PLAIN = PlainLayer(d_ff=24, num_experts=4, top_k=2)
BASE = tiny.model_config(num_layers=2, init_std=0.1, moe={"backend": "reference"})
ONE_LAYER = dataclasses.replace(BASE, num_layers=1)
TOKENS = jnp.asarray(np.frombuffer(tiny.TEXT[: 8 * 17].encode(), np.uint8).reshape(8, 17), "i4")


def trained(config, steps=12):
    """The reports of a few steps on one batch, and the parameters after them."""
    fields = {"warmup_steps": 0, "learning_rate": 1e-2, "final_learning_rate": 1.0}
    optimizer = make_optimizer(OptimizerConfig(**fields), steps=100)
    step = jax.jit(make_train_step(abstract_model(config, LAYOUTS["data"]), optimizer, config))
    state, reports = init_state(config, LAYOUTS["data"], optimizer, seed=0), []
    for _ in range(steps):
        state, report = step(state, TOKENS)
        reports.append(report)
    return reports, state.parameters


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_of_every_method_falls(method):
    config = with_method(ONE_LAYER, method, PLAIN)
    reports, parameters = trained(config)
    assert float(reports[-1].loss) < float(reports[0].loss) - 1
    for name, value in parameters.items():
        assert jnp.isfinite(value).all(), name
    metrics = step_metrics(reports[-1], moe_layers(config))
    assert all(np.isfinite(value) for value in metrics.values())
    assert ("experts_per_token" in metrics) == bool(moe_layers(config))


def test_metrics_tell_how_many_experts_top_p_chooses():
    config = with_method(BASE, "top_p", PLAIN)
    reports, _ = trained(config, steps=1)
    metrics = step_metrics(reports[0], moe_layers(config))
    # floor(0.4 * 4) + 1 = 2 at most; nearly even probabilities need them.
    assert 1 < metrics["experts_per_token"] <= 2
    assert metrics["moe/layer0/sublayer0/experts_per_token"] == metrics["experts_per_token"]


@pytest.mark.parametrize("before", [name for name in METHODS if name not in ("dense", "hash")])
def test_a_method_leaves_nothing_of_the_one_before_it(before):
    again = with_method(with_method(BASE, before, PLAIN), "cartesian", PLAIN)
    assert again == with_method(BASE, "cartesian", PLAIN)


def test_what_dense_leaves_has_no_layer_for_another_method():
    dense = with_method(BASE, "dense", PLAIN)
    assert with_method(dense, "dense", PLAIN) == dense
    with pytest.raises(UserError, match="interval=0 leaves the method 'cartesian' no layer"):
        with_method(dense, "cartesian", PLAIN)


def test_the_losses_that_hash_cannot_use_stay_off():
    again = with_method(with_method(BASE, "hash", PLAIN), "cartesian", PLAIN)
    assert again.moe.balance_loss == 0 != BASE.moe.balance_loss


def test_the_stacked_control_is_the_cartesian_layer_with_one_expert():
    names = named_parameters(
        abstract_model(with_method(BASE, "dense_stacked", PLAIN), LAYOUTS["data"])
    )
    ours = {n: v.shape for n, v in names.items() if n.startswith("segments/0/blocks/0/feed")}
    assert ours == {
        f"segments/0/blocks/0/feed_forward/{part}": (1, *shape)
        for i in (0, 1)
        for part, shape in {
            f"norms/{i}/gain": (16,),
            f"feed_forwards/{i}/gate": (16, 12),
            f"feed_forwards/{i}/up": (16, 12),
            f"feed_forwards/{i}/down": (12, 16),
        }.items()
    }


@pytest.mark.parametrize(
    "method, plain, words",
    [
        ("cartesain", PLAIN, "method='cartesain' is unknown: allowed are cartesian, .*top_p"),
        ("cartesian", PlainLayer(25, 4, 2), "config.model.d_ff=25 is not allowed: .* 1/2 of it"),
        ("smoe_top3", PlainLayer(26, 4, 2), "config.model.d_ff=26 is not allowed: .* 5/4 of it"),
    ],
)
def test_a_method_that_is_unknown_or_does_not_fit(method, plain, words):
    with pytest.raises(UserError, match=words):
        with_method(BASE, method, plain)


@pytest.mark.parametrize(
    "argument, words",
    [
        ("base", "paper.py:base is not SIZE,METHOD"),
        ("small,dense", "SIZE='small' is unknown: allowed are 7b, base, large"),
        ("base,dens", "method='dens' is unknown"),
    ],
)
def test_a_preset_that_does_not_exist(argument, words):
    with pytest.raises(UserError, match=words):
        paper.get_config(argument)


def test_an_unknown_layer_is_an_error():
    with pytest.raises(UserError, match=r"config.model.moe.layer='stack' is unknown: .*stacked"):
        abstract_model(tiny.model_config(moe={"layer": "stack"}), LAYOUTS["data"])


def test_every_preset_of_the_paper_is_a_valid_config():
    for size in paper.SIZES:
        for method in METHODS:
            config = schema.read(paper.get_config(f"{size},{method}").to_dict())
            assert config.model.vocab_size == 32_000
