"""How much of the routing the token tells: by hand, and of a model whose router asks no more."""

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.token_routing import count_choices, guess, measure
from cartesian_moe_jax import TrainedModel
from cartesian_moe_jax.data import ByteTokenizer
from tests import tiny
from tests.messages import message_of


def test_counts_of_hand_made_choices():
    choices = jnp.array([[[[1, 0], [0, 1], [0, 1]]]], bool)
    tokens, mask = jnp.array([2, 0, 2]), jnp.array([True, False, True])
    found = count_choices(choices, tokens, mask, vocab_size=3)
    assert found.tolist() == [[[0, 0], [0, 0], [1, 1]]]


def test_guesses_by_token_and_by_load():
    """Token 0 is true to expert 0, token 1 turns to another; token 2 comes for the first time."""
    first = np.array([[[2.0, 1, 0], [0, 3, 1], [0, 0, 0]]])
    second = np.array([[[4.0, 0, 0], [0, 1, 2], [1, 2, 0]]])
    found = guess(first, second, top_k=1)
    assert found.by_token == pytest.approx([(4 + 1 + 2) / 10])
    assert found.by_load == pytest.approx([(0 + 1 + 2) / 10])


def lm(tmp_path, **moe):
    """A model with initial weights whose text holds each of its tokens in both halves."""
    (tmp_path / "corpus.txt").write_text("def f(x, y): return x + 2 * y\n" * 900)
    config = tiny.config(tmp_path, model={"vocab_size": 257, "moe": moe})
    return TrainedModel(tiny.model(config.model), ByteTokenizer(), config, step=0)


def test_a_hash_router_is_guessed_and_a_learned_one_is_not_wholly(tmp_path):
    by_hash = measure(lm(tmp_path, router="hash", balance_loss=0.0), 1000)
    assert by_hash.by_token.tolist() == [1.0] * 4
    learned = measure(lm(tmp_path), 1000)
    assert learned.by_token.shape == (4,)
    assert (learned.by_token < 1).all() and (learned.by_token >= learned.by_load).all()


def test_dense_models_are_refused(tmp_path):
    words = message_of(measure, lm(tmp_path, interval=0), 1000)
    assert words == "a model without MoE layers has no routing to guess"
