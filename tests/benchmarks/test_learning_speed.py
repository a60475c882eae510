"""What groups of weights gain by a step, against numbers worked out by hand and differences."""

import jax
import jax.numpy as jnp
import optax
import pytest

from benchmarks.learning_speed import gains, make_probe, table
from cartesian_moe_jax.data.tokenizers import resolve_tokenizer
from cartesian_moe_jax.models.parameters import trainable, with_parameters
from cartesian_moe_jax.training.loop import prepare
from cartesian_moe_jax.training.step import objective
from cartesian_moe_jax.training.trainer import Trainer
from tests import tiny

ONE_LAYER = {"num_layers": 1, "vocab_size": 257}


def test_gains_are_summed_by_group():
    names = ["mlp/experts/up", "mlp/experts/down", "mlp/router/weight", "head"]
    gradients = {name: jnp.array([1.0, -2.0]) for name in names}
    updates = {name: jnp.array([-3.0, 0.5 * i]) for i, name in enumerate(names)}
    found = {group: float(gain) for group, gain in gains(gradients, updates).items()}
    assert found == {"routed experts": 7.0, "routers": 5.0, "embedding, head, norms": 6.0}


def test_table_leaves_out_groups_that_the_model_lacks():
    lines = table({0: {"routers": 1.0}, 100: {"routers": 2.5}}).splitlines()
    assert lines[0].split()[-2:] == ["0", "100"]
    assert [line.split() for line in lines[1:]] == [["routers", "1.00", "2.50"]]


@pytest.fixture
def trainer(tmp_path):
    config = tiny.config(tmp_path, model=ONE_LAYER, parallel={"data": -1})
    return Trainer(config, prepare(config, resolve_tokenizer("bytes", "")))


@pytest.mark.long
def test_gains_are_what_a_small_step_takes_off_the_loss(trainer):
    """The sum over all groups against a difference of losses, along Adam's first update."""
    with jax.set_mesh(trainer.mesh):
        state, batches = trainer.create_state(), trainer.batches(0)
        tokens = trainer.place(next(batches))
        batches.close()
        predicted = sum(make_probe(trainer)(state, tokens, tokens[None]).values())

        @jax.jit
        def loss_after(distance):
            def loss(moved):
                skeleton = with_parameters(trainer.evaluator.skeleton, state.parameters | moved)
                return objective(skeleton, tokens, trainer.config.model)[1][0]

            parameters = trainable(state.parameters)
            adam = optax.adam(1.0, eps=trainer.config.optimizer.eps)
            updates, _ = adam.update(jax.grad(loss)(parameters), adam.init(parameters))
            return loss(jax.tree.map(lambda p, u: p + distance * u, parameters, updates))

        distance = 1e-4
        measured = (loss_after(-distance) - loss_after(distance)) / (2 * distance)
    assert predicted > 1.0
    assert jnp.allclose(predicted, measured, rtol=0.05)
