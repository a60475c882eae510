"""Perplexity against a direct computation over the split."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cartesian_moe_jax.data import evaluation_batches
from cartesian_moe_jax.evaluation.perplexity import (
    Evaluation,
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


def measured(step, model, split, stride=0, batch=BATCH, max_tokens=0):
    batches = evaluation_batches(split, SEQ, batch, stride=stride, max_tokens=max_tokens)
    return measure_perplexity(step, named_parameters(model), batches, jnp.asarray, split)


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


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("max_tokens", [1, 64, 65, 10**9])
def test_max_tokens_are_predicted_whatever_the_batch(step, model, split, max_tokens, batch):
    ours = measured(step, model, split, batch=batch, max_tokens=max_tokens)
    nats = direct_nats(model, split)
    assert ours.tokens == min(max_tokens, len(nats))
    assert ours.nats == pytest.approx(sum(nats[:max_tokens]), rel=1e-5)


@pytest.mark.parametrize("stride", [0, 5])
def test_bytes_are_those_of_the_text_that_is_predicted(step, model, tmp_path, stride):
    """Of a text half Chinese, half English the mean is neither's."""
    texts = {"a.txt": "的一是不了人我在有他" * 20, "b.txt": "the sea and the ship of storm " * 20}
    both = pack_texts(tmp_path, texts, split="all").split("all")
    chinese = len(texts["a.txt"].encode())
    ours = measured(step, model, both, stride, max_tokens=chinese - 1)
    assert (ours.text_bytes, ours.words) == (chinese, 1)
    assert ours.bits_per_byte == pytest.approx(ours.nats / math.log(2) / chinese)
    more = measured(step, model, both, stride, max_tokens=chinese + 30)
    assert (more.text_bytes, more.words) == (chinese + 30, 8)


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


def test_the_measures_of_given_numbers():
    # 8 tokens at 1 bit each, for 4 bytes of text in 2 words.
    result = Perplexity(nats=8 * math.log(2), tokens=8, text_bytes=4.0, words=2.0).as_dict()
    assert result == pytest.approx(
        {
            "loss": math.log(2),
            "perplexity": 2.0,
            "byte_perplexity": 4.0,
            "word_perplexity": 16.0,
            "bits_per_byte": 2.0,
            "tokens": 8,
        }
    )


def direct_strided_nats(model, split, stride):
    """-log p of every token but the first, each in the first window that ends behind it."""
    logits_of = jax.jit(lambda model, tokens: model(tokens)[0])
    flat = np.asarray(split.read(0, len(split)), np.int32)
    nats = []
    for target in range(1, len(flat)):
        window = 0 if target <= SEQ else -(-(target - SEQ) // stride)
        inputs = flat[window * stride : window * stride + SEQ]
        padded = np.pad(inputs, (0, SEQ - len(inputs)))
        logits = logits_of(model, jnp.asarray(padded[None]))[0]
        position = target - 1 - window * stride
        nats.append(-float(jax.nn.log_softmax(logits[position])[flat[target]]))
    return nats


@pytest.mark.parametrize("stride", [1, 5, 8, 16])
def test_strided_perplexity_equals_a_direct_computation(step, model, split, stride):
    ours, nats = measured(step, model, split, stride), direct_strided_nats(model, split, stride)
    assert ours.tokens == len(nats) == len(split) - 1
    assert ours.nats == pytest.approx(sum(nats), rel=1e-5)


def test_words_and_bytes_are_those_of_the_text(step, model, split):
    ours = measured(step, model, split)
    text = split.corpus.tokenizer.decode(split.read(0, len(split)))
    assert ours.words == len(text.split()) > 0
    assert ours.text_bytes == len(text.encode())
    assert ours.word_perplexity == pytest.approx(math.exp(ours.nats / len(text.split())))


def test_a_mixture_is_the_mean_by_its_weights():
    one = Perplexity(nats=10.0, tokens=10, text_bytes=10.0, words=2.0)
    other = Perplexity(nats=60.0, tokens=30, text_bytes=120.0, words=15.0)
    both = Evaluation({"one": one, "other": other}, (0.25, 0.75))
    assert both.mean.loss == pytest.approx(0.25 * 1.0 + 0.75 * 2.0)
    assert both.mean.tokens == 40
    bytes_per_token = 0.25 * 1.0 + 0.75 * 4.0
    assert both.mean.bits_per_byte == pytest.approx(1.75 / math.log(2) / bytes_per_token)
    assert both.mean.word_perplexity == pytest.approx(math.exp(1.75 / (0.25 * 0.2 + 0.75 * 0.5)))
    assert both.as_dict()["by_source"]["other"] == other.as_dict()
    assert Evaluation({"one": one}, (1.0,)).as_dict() == pytest.approx(one.as_dict())


def test_a_hopeless_model_does_not_overflow():
    assert Perplexity(nats=1e6, tokens=1, text_bytes=1.0, words=1.0).perplexity < math.inf
