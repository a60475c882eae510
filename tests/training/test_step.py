"""The training step: accumulation, what the loss contains, and that it falls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cartesian_moe_jax.config import OptimizerConfig
from cartesian_moe_jax.models.build import abstract_model
from cartesian_moe_jax.models.parameters import named_parameters, with_parameters
from cartesian_moe_jax.parallel.layouts import LAYOUTS
from cartesian_moe_jax.training.optimizer import make_optimizer
from cartesian_moe_jax.training.state import TrainState
from cartesian_moe_jax.training.step import make_train_step, objective
from tests import tiny

LAYOUT = LAYOUTS["data"]
TOKENS = jnp.asarray(np.frombuffer(tiny.TEXT[: 8 * 17].encode(), np.uint8).reshape(8, 17), "i4")
FEW_EXPERTS = {"num_experts": 2, "top_k": 1}


def config_of(**moe):
    return tiny.model_config(num_layers=1, moe={"backend": "reference", **moe})


def start(config, **optimizer):
    """The compiled step of a model, and its first state."""
    constant = {"final_learning_rate": 1.0, "warmup_steps": 0}
    transformation = make_optimizer(OptimizerConfig(**(constant | optimizer)), steps=100)

    def step(accumulate=1):
        made = make_train_step(abstract_model(config, LAYOUT), transformation, config, accumulate)
        return jax.jit(made)

    parameters = named_parameters(tiny.model(config))
    none = jnp.zeros((), jnp.int32)
    return step, TrainState(none, parameters, transformation.init(parameters), none)


def test_accumulated_gradients_equal_those_of_the_whole_batch():
    step, state = start(config_of(interval=0), name="sgd", learning_rate=0.5, clip_norm=0.1)
    whole_state, whole = step(accumulate=1)(state, TOKENS)
    parts_state, parts = step(accumulate=4)(state, TOKENS)
    np.testing.assert_allclose(parts.loss, whole.loss, rtol=1e-6)
    np.testing.assert_allclose(parts.gradient_norm, whole.gradient_norm, rtol=1e-5)
    assert whole.gradient_norm > 0.1, "the step must be clipped for its norm to matter"
    assert parts.routing is whole.routing is None
    for name, value in whole_state.parameters.items():
        np.testing.assert_allclose(
            parts_state.parameters[name], value, rtol=1e-5, atol=1e-6, err_msg=name
        )
        assert (value != state.parameters[name]).any(), name
    assert parts_state.step == whole_state.step == 1


@pytest.fixture(scope="module")
def under_coefficients():
    """What is minimised, loss, statistics and gradients, by (balance_loss, z_loss)."""
    model = tiny.model(config_of(**FEW_EXPERTS))
    results = {}
    for balance_loss, z_loss in [(0.0, 0.0), (0.5, 0.25)]:
        config = config_of(balance_loss=balance_loss, z_loss=z_loss, **FEW_EXPERTS)

        def of(parameters, config=config):
            return objective(with_parameters(model, parameters), TOKENS, config)

        (total, aux), gradients = jax.jit(jax.value_and_grad(of, has_aux=True))(
            named_parameters(model)
        )
        results[balance_loss, z_loss] = (total, *aux, gradients)
    return results


def test_auxiliary_losses_are_minimised_but_not_reported(under_coefficients):
    total, loss, stats, _ = under_coefficients[0.5, 0.25]
    balance, z = float(jnp.sum(stats.balance_loss)), float(jnp.sum(stats.z_loss))
    # One layer of two sub-layers: each has a balance loss of about 1, and a z-loss.
    assert stats.balance_loss.shape == stats.z_loss.shape == (1, 2)
    assert 1.9 < balance < 4
    assert z > 0.9  # 2 log(2)^2 = 0.96 where all logits are 0
    np.testing.assert_allclose(total, loss + 0.5 * balance + 0.25 * z, rtol=1e-6)
    plain_total, plain_loss, _, _ = under_coefficients[0.0, 0.0]
    np.testing.assert_allclose([plain_total, plain_loss], [loss, loss], rtol=1e-6)


def test_auxiliary_losses_reach_the_routers_and_nothing_behind_them(under_coefficients):
    plain, changed = (gradients for *_, gradients in under_coefficients.values())
    differ = {n for n in plain if not np.allclose(plain[n], changed[n], rtol=1e-4, atol=1e-7)}
    layer = "segments/0/blocks/0"
    routers = {f"{layer}/feed_forward/sublayers/{i}/router/weight" for i in (0, 1)}
    assert routers | {"embedding", f"{layer}/attention/out"} <= differ
    last = f"{layer}/feed_forward/sublayers/1"
    behind = {n for n in plain if n.startswith((f"{last}/experts", f"{last}/shared"))}
    assert len(behind) == 3 + 3 + 2
    assert not differ & (behind | {"head", "norm/gain"})


def test_the_first_step_that_is_not_finite_is_remembered():
    step, state = start(config_of(interval=0), learning_rate=1e30)
    step, seen = step(), []
    for _ in range(4):
        state, report = step(state, TOKENS)
        finite = bool(jnp.isfinite(report.loss + report.gradient_norm))
        seen.append((finite, int(state.not_finite_since)))
    assert seen == [(True, 0), (False, 2), (False, 2), (False, 2)]


def test_the_loss_of_a_repeated_batch_falls():
    step, state = start(config_of(**FEW_EXPERTS), learning_rate=1e-2, weight_decay=0.0)
    step = step()
    losses = []
    for _ in range(60):
        state, report = step(state, TOKENS)
        losses.append(float(report.loss))
    assert losses[0] == pytest.approx(np.log(384), abs=0.1)
    assert losses[-1] < 1.0
    assert int(state.step) == 60
