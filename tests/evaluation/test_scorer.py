"""Scores of many continuations in batches, against the logits of each text by itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cartesian_moe_jax.evaluation.downstream.continuation import Continuation, fitted
from cartesian_moe_jax.evaluation.downstream.scorer import Scorer
from cartesian_moe_jax.models.build import abstract_model
from cartesian_moe_jax.models.parameters import (
    named_parameters,
    parameter_shardings,
    with_parameters,
)
from cartesian_moe_jax.parallel.layouts import layout_of
from cartesian_moe_jax.parallel.mesh import make_mesh, single_device_mesh
from tests import tiny

WINDOW, KNOWN = 24, 300
CONFIG = tiny.model_config(init_std=0.3)


def random_continuations(count=25, longest=70, seed=0):
    """Of many lengths: some fit the window, some don't, one is empty."""
    rng = np.random.default_rng(seed)
    texts = [rng.integers(0, KNOWN, rng.integers(2, longest)) for _ in range(count)]
    cuts = [int(rng.integers(1, len(text))) for text in texts]
    found = [
        Continuation(t[:cut].tolist(), t[cut:].tolist()) for t, cut in zip(texts, cuts, strict=True)
    ]
    return [*found, Continuation([1, 2], [])]


@functools.cache
def logits_of():
    return jax.jit(lambda model, tokens: model(tokens)[0])


def direct(model, continuation):
    """log p of the tokens, and whether each is the most likely of the known: one text at a time."""
    total, greedy = 0.0, True
    for part in fitted(continuation, WINDOW):
        text = [*part.context, *part.tokens]
        padded = np.zeros((1, WINDOW), np.int32)
        padded[0, : part.length] = text[:-1]
        logits = np.asarray(logits_of()(model, jnp.asarray(padded))[0])
        for position in range(len(part.context) - 1, part.length):
            target = text[position + 1]
            total += float(jax.nn.log_softmax(logits[position])[target])
            greedy &= int(np.argmax(logits[position, :KNOWN])) == target
    return total, greedy


def scorer(mesh, tokens=4 * WINDOW):
    return Scorer(mesh, tokens=tokens, window=WINDOW, vocab_size=KNOWN, loss_chunk=5)


def require_equal(scores, model, continuations):
    for score, continuation in zip(scores, continuations, strict=True):
        likelihood, greedy = direct(model, continuation)
        assert score.log_likelihood == pytest.approx(likelihood, rel=1e-4, abs=1e-4)
        assert score.is_greedy == greedy


@pytest.mark.parametrize("tokens", [1, 4 * WINDOW, 10_000])
def test_equal_to_one_text_at_a_time(tokens):
    model, continuations, read = tiny.model(CONFIG), random_continuations(), []
    scores = scorer(single_device_mesh(), tokens).score(model, continuations, read.append)
    require_equal(scores, model, continuations)
    assert sum(read) == sum(bool(each.tokens) for each in continuations)


def test_greedy_is_what_the_model_would_write():
    """The most likely tokens are found among the known; what is padded is no token."""
    model = tiny.model(CONFIG)
    logits = logits_of()(model, jnp.asarray([[3, 7, 9]], jnp.int32))
    likely = int(jnp.argmax(logits[0, -1, :KNOWN]))
    head = model.head[...].at[:, KNOWN:].set(3 * model.head[...][:, likely, None])
    padded = with_parameters(model, named_parameters(model) | {"head": head})
    raised = logits_of()(padded, jnp.asarray([[3, 7, 9]], jnp.int32))
    assert int(jnp.argmax(raised[0, -1])) >= KNOWN
    asked = [Continuation([3, 7, 9], [likely]), Continuation([3, 7, 9], [(likely + 1) % KNOWN])]
    first, second = scorer(single_device_mesh()).score(padded, asked)
    assert first.is_greedy and not second.is_greedy
    expected = float(jax.nn.log_softmax(raised[0, -1])[likely])
    assert first.log_likelihood == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("layout", ["expert", "fsdp"])
def test_equal_on_several_devices(layout):
    parallel = tiny.parallel(layout=layout, data=-1, **{layout: 2})
    mesh, laid_out = make_mesh(parallel), layout_of(parallel)
    model, continuations = tiny.model(CONFIG), random_continuations(9)
    parameters = named_parameters(model)
    where = parameter_shardings(parameters, laid_out, mesh)
    placed = {name: jax.device_put(value, where[name]) for name, value in parameters.items()}
    with jax.set_mesh(mesh):
        spread = with_parameters(abstract_model(CONFIG, laid_out), placed)
        scores = scorer(mesh).score(spread, continuations)
    require_equal(scores, model, continuations)
