"""Perplexity against a direct computation over the split."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cartesian_moe_jax.data import evaluation_batches
from cartesian_moe_jax.evaluation.perplexity import (
    Perplexity,
    make_evaluation_step,
    measure_perplexity,
)
from cartesian_moe_jax.models.build import abstract_model
from cartesian_moe_jax.models.parameters import named_parameters, with_parameters
from cartesian_moe_jax.parallel.layouts import LAYOUTS
from tests import tiny
from tests.packing import numbered_lines, pack_texts

SEQ, BATCH = 16, 4
CONFIG = tiny.model_config(num_layers=1, init_std=0.3, moe={"backend": "reference"})


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """350 tokens or so: their predictions fill 5 batches of 64, and not the sixth."""
    folder = tmp_path_factory.mktemp("perplexity")
    packed = pack_texts(folder, {"a.txt": numbered_lines(71)}, validation_share=0.5)
    split = packed.split("validation")
    assert (len(split) - 1) % (SEQ * BATCH)
    assert (len(split) - 1) % SEQ
    return split


@pytest.fixture(scope="module")
def model():
    return tiny.model(CONFIG)


@pytest.fixture(scope="module")
def step():
    return jax.jit(make_evaluation_step(abstract_model(CONFIG, LAYOUTS["data"]), CONFIG))


def measured(step, model, split, **options):
    batches = evaluation_batches(split, SEQ, BATCH)
    bytes_per_token = split.num_bytes / (len(split) - 1)
    parameters = named_parameters(model)
    return measure_perplexity(step, parameters, batches, jnp.asarray, bytes_per_token, **options)


def direct_nats(model, split):
    """-log p of every token but the first, each window of the split on its own."""
    logits_of = jax.jit(lambda model, tokens: model(tokens)[0])
    flat = np.asarray(split.read(0, len(split)), np.int32)
    nats = []
    for start in range(0, len(flat) - 1, SEQ):
        window = flat[start : start + SEQ + 1]
        inputs = np.pad(window[:-1], (0, SEQ + 1 - len(window)))
        log_probabilities = jax.nn.log_softmax(logits_of(model, jnp.asarray(inputs[None]))[0])
        nats += [-float(log_probabilities[i, target]) for i, target in enumerate(window[1:])]
    return nats


def test_equals_a_direct_computation(step, model, split):
    ours, nats = measured(step, model, split), direct_nats(model, split)
    assert ours.tokens == len(nats) == len(split) - 1
    assert ours.nats == pytest.approx(sum(nats), rel=1e-5)
    assert ours.perplexity == pytest.approx(math.exp(np.mean(nats)), rel=1e-5)
    assert ours.bits_per_byte == pytest.approx(sum(nats) / math.log(2) / split.num_bytes, rel=1e-5)


@pytest.mark.parametrize("max_tokens, batches", [(1, 1), (64, 1), (65, 2), (10**9, None)])
def test_whole_batches_until_max_tokens(step, model, split, max_tokens, batches):
    ours, nats = measured(step, model, split, max_tokens=max_tokens), direct_nats(model, split)
    count = len(nats) if batches is None else batches * BATCH * SEQ
    assert ours.tokens == count
    assert ours.nats == pytest.approx(sum(nats[:count]), rel=1e-5)
    assert ours.text_bytes == pytest.approx(split.num_bytes * count / len(nats))


def test_padding_is_not_counted(step, model, split):
    *_, (tokens, mask) = evaluation_batches(split, SEQ, BATCH)
    targets = np.pad(mask, ((0, 0), (1, 0)), constant_values=True)
    assert not targets.all()
    other = np.where(targets, tokens, 99)
    nats = [float(step(named_parameters(model), jnp.asarray(t), mask)) for t in (tokens, other)]
    assert nats[0] == nats[1] > 0


def test_a_model_that_knows_nothing_has_its_vocabulary_as_perplexity(step, model, split):
    no_head = {"head": jnp.zeros_like(model.head[...])}
    knows_nothing = with_parameters(model, named_parameters(model) | no_head)
    assert measured(step, knows_nothing, split).perplexity == pytest.approx(384, rel=1e-5)


def test_loss_perplexity_and_bits_of_given_numbers():
    # 8 tokens at 1 bit each, for 4 bytes of text.
    result = Perplexity(nats=8 * math.log(2), tokens=8, text_bytes=4.0).as_dict()
    assert result == pytest.approx(
        {"loss": math.log(2), "perplexity": 2.0, "bits_per_byte": 2.0, "tokens": 8}
    )


def test_a_hopeless_model_does_not_overflow():
    assert Perplexity(nats=1e6, tokens=1, text_bytes=1.0).perplexity < math.inf
