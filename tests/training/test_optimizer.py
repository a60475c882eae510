"""Decay mask and one step, against numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cartesian_moe_jax.config import OptimizerConfig
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.models.build import abstract_model
from cartesian_moe_jax.models.parameters import named_parameters
from cartesian_moe_jax.parallel.layouts import LAYOUTS
from cartesian_moe_jax.training.optimizer import (
    Rates,
    is_decayed,
    make_optimizer,
)
from tests import tiny


def optimizer(**fields):
    """An optimizer whose learning rate is 0.01 throughout."""
    constant = {"learning_rate": 0.01, "final_learning_rate": 1.0, "warmup_steps": 0}
    return make_optimizer(OptimizerConfig(**(constant | fields)), steps=100)


def after(optimizer, value, gradients, name="embedding"):
    """A scalar parameter's value after steps with these gradients."""
    parameters = {name: jnp.asarray(value)}
    state = optimizer.init(parameters)
    for gradient in gradients:
        updates, state = optimizer.update({name: jnp.asarray(gradient)}, state, parameters)
        parameters = jax.tree.map(jnp.add, parameters, updates)
    return float(parameters[name])


def test_unknown_optimizer_is_an_error():
    with pytest.raises(UserError, match=r"config.optimizer.name='adam' .*adamw, sgd"):
        make_optimizer(OptimizerConfig(name="adam", warmup_steps=0), steps=10)


def test_biases_and_norms_inside_layers_are_not_decayed():
    names = named_parameters(abstract_model(tiny.model_config(num_layers=2), LAYOUTS["data"]))
    left_out = {name for name in names if not is_decayed(name)}
    cartesian, dense = "segments/0/blocks/0", "segments/1/blocks/0"
    assert left_out == {
        f"{cartesian}/norm/gain",
        f"{cartesian}/feed_forward/norms/0/gain",
        f"{cartesian}/feed_forward/norms/1/gain",
        f"{cartesian}/feed_forward/sublayers/0/shared_expert/bias",
        f"{cartesian}/feed_forward/sublayers/1/shared_expert/bias",
        f"{dense}/norm/gain",
        f"{dense}/feed_forward/norm/gain",
    }


@pytest.mark.parametrize(
    "name, expected", [("head", 2 * 0.999), ("norm/gain", 2 * 0.999), ("segments/0/gain", 2.0)]
)
def test_decay_alone_shrinks_by_rate_times_decay(name, expected):
    assert after(optimizer(weight_decay=0.1), 2.0, [0.0], name) == pytest.approx(expected)


def test_two_adamw_steps_by_hand():
    adamw = optimizer(weight_decay=0.1, beta1=0.9, beta2=0.95, clip_norm=0.0)
    # Bias-corrected, the first step is the sign of the gradient.
    first = 2.0 - 0.01 * (1 + 0.1 * 2.0)
    assert after(adamw, 2.0, [0.5]) == pytest.approx(first)
    mean = (0.9 * 0.1 * 0.5 + 0.1 * -0.2) / (1 - 0.9**2)
    square = (0.95 * 0.05 * 0.25 + 0.05 * 0.04) / (1 - 0.95**2)
    second = first - 0.01 * (mean / np.sqrt(square) + 0.1 * first)
    assert after(adamw, 2.0, [0.5, -0.2]) == pytest.approx(second)


@pytest.mark.parametrize("clip_norm, moved", [(1.0, 0.01), (10.0, 0.05), (0.0, 0.05)])
def test_gradients_are_clipped_by_their_norm(clip_norm, moved):
    assert after(optimizer(name="sgd", clip_norm=clip_norm), 2.0, [5.0]) == pytest.approx(2 - moved)


SUBLAYER = "segments/0/blocks/0/feed_forward/sublayers/0"
WIDTH = 8  # of an expert: its down projection has that many rows
SHAPES = {
    f"{SUBLAYER}/experts/gate": (1, 2, 4, WIDTH),
    f"{SUBLAYER}/experts/up": (1, 2, 4, WIDTH),
    f"{SUBLAYER}/experts/down": (1, 2, WIDTH, 4),
    f"{SUBLAYER}/shared_expert/feed_forward/down": (1, WIDTH, 4),
    f"{SUBLAYER}/router/weight": (1, 4, 2),
    "segments/0/blocks/1/feed_forward/feed_forward/down": (1, WIDTH, 4),
}


@pytest.mark.parametrize("name", ["adamw", "sgd"])
@pytest.mark.parametrize(
    "fields, gate_and_up, down",
    [
        ({}, 1, 1),
        ({"expert_rate": 0.5}, 0.5, 0.5),
        ({"expert_reference_width": 2}, 1, 2 / WIDTH),
        ({"expert_reference_width": WIDTH}, 1, 1),
        ({"expert_rate": 3.0, "expert_reference_width": 16}, 3, 3 * 16 / WIDTH),
    ],
)
def test_routed_experts_move_by_their_own_rate(name, fields, gate_and_up, down):
    rng = np.random.default_rng(0)
    parameters, gradients = (
        {n: jnp.asarray(rng.standard_normal(shape), jnp.float32) for n, shape in SHAPES.items()}
        for _ in range(2)
    )

    def moved(**fields):
        chosen = optimizer(name=name, weight_decay=0.1, clip_norm=0.5, **fields)
        updates, _ = jax.jit(chosen.update)(gradients, chosen.init(parameters), parameters)
        return updates

    plain, ours = moved(), moved(**fields)
    factors = dict.fromkeys(SHAPES, 1.0) | {
        f"{SUBLAYER}/experts/gate": gate_and_up,
        f"{SUBLAYER}/experts/up": gate_and_up,
        f"{SUBLAYER}/experts/down": down,
    }
    for n, factor in factors.items():
        np.testing.assert_allclose(ours[n], factor * plain[n], rtol=1e-6, err_msg=n)


def test_the_state_is_the_same_whatever_the_multiplier():
    """So are checkpoints, and programs (of test_trainer.py)."""
    parameters = {"head": jnp.zeros(3)}
    plain, scaled = optimizer(), optimizer(expert_rate=2.0)
    structure = jax.tree.structure(plain.init(parameters))
    assert structure == jax.tree.structure(scaled.init(parameters))


def test_rates_in_place_of_those_of_the_config():
    parameters = {f"{SUBLAYER}/experts/up": jnp.ones((1, 2, 4, WIDTH)), "head": jnp.ones(3)}
    config = OptimizerConfig(name="sgd", warmup_steps=0, clip_norm=0.0)

    def moved(peak, experts):
        chosen = make_optimizer(config, 100, Rates(peak, experts))
        return chosen.update(parameters, chosen.init(parameters), parameters)[0]

    updates = jax.jit(moved)(0.5, 3.0)
    np.testing.assert_allclose(updates["head"], -0.5, rtol=1e-6)
    np.testing.assert_allclose(updates[f"{SUBLAYER}/experts/up"], -1.5, rtol=1e-6)
