"""Texts read a token at a time by what was kept of them, against texts read whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cartesian_moe_jax.kernels import by_leg
from cartesian_moe_jax.models.build import abstract_model
from cartesian_moe_jax.models.in_use import narrowed
from cartesian_moe_jax.models.language_model import LanguageModel
from cartesian_moe_jax.models.methods import METHODS, PlainLayer, with_method
from cartesian_moe_jax.models.parameters import named_parameters, with_parameters
from cartesian_moe_jax.parallel.layouts import LAYOUTS, layout_of
from cartesian_moe_jax.parallel.mesh import make_mesh
from tests import tiny
from tests.parallel.layout_runs import EXCHANGES, on

WINDOW, BATCH = 9, 8
TOKENS = np.random.default_rng(2).integers(0, 257, (BATCH, WINDOW), np.int32)
LENGTHS = np.array([1, 4, 4, 2, 3, 1, 4, 3])
"""What is read at once of each text."""
CONFIG = tiny.model_config(init_std=0.3)


def read_in_steps(model, tokens, lengths, steps):
    """The hidden states of `steps` tokens behind `lengths`, [steps, batch, d_model]."""
    prefill, extend = jax.jit(LanguageModel.prefill), jax.jit(LanguageModel.extend)
    # What lies behind is to be read by no one.
    begun = np.where(np.arange(tokens.shape[1]) < lengths[:, None], tokens, 5)
    _, cache = prefill(model, jnp.asarray(begun), jnp.asarray(lengths))
    found = []
    for step in range(steps):
        now = np.take_along_axis(tokens, (lengths + step)[:, None], axis=1)
        hidden, cache = extend(model, jnp.asarray(now), cache)
        found.append(np.asarray(hidden[:, 0]))
    return np.stack(found)


def read_whole(model, tokens, lengths, steps):
    hidden = np.asarray(jax.jit(LanguageModel.hidden)(model, jnp.asarray(tokens))[0])
    return np.stack([hidden[np.arange(len(tokens)), lengths + step] for step in range(steps)])


def assert_equal(model, reference, lengths=LENGTHS):
    steps = WINDOW - int(lengths.max())
    found = read_in_steps(model, TOKENS, lengths, steps)
    np.testing.assert_allclose(
        found, read_whole(reference, TOKENS, lengths, steps), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("method", METHODS)
def test_every_method(method):
    plain = tiny.model_config(init_std=0.3, moe={"sublayers": 1})
    model = tiny.model(with_method(plain, method, PlainLayer(24, 4, 2)))
    assert_equal(model, model)


@pytest.mark.parametrize("moe", [{"interval": 2}, {"interval": 1, "first_layer": 1}])
def test_layers_in_patterns(moe):
    model = tiny.model(tiny.model_config(init_std=0.3, num_layers=5, moe=moe))
    assert_equal(model, model)


def test_a_past_of_nothing():
    model = tiny.model(CONFIG)
    hidden, _ = model.hidden(jnp.asarray(TOKENS[:, :1]))
    _, empty = model.prefill(jnp.asarray(TOKENS), jnp.zeros(BATCH, jnp.int32))
    first, cache = model.extend(jnp.asarray(TOKENS[:, :1]), empty)
    np.testing.assert_allclose(first, hidden, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(cache.length, np.ones(BATCH))


@pytest.mark.parametrize("router", ["softmax_top_k", "hash"])
def test_narrow_numbers(router):
    """In bfloat16 each is off by its rounding, and no further than the other."""
    moe = {"router": router, "balance_loss": 0.0}
    wide, narrow = (
        tiny.model(tiny.model_config(init_std=0.1, compute_dtype=dtype, moe=moe))
        for dtype in ("float32", "bfloat16")
    )
    exact = read_whole(wide, TOKENS, LENGTHS, 5)
    cast = narrowed(narrow, narrow.dtype)
    kept = {name: str(value.dtype) for name, value in named_parameters(cast).items()}
    assert kept["head"] == kept["embedding"] == "bfloat16" and kept["norm/gain"] == "float32"

    def error(found):
        return np.median(np.abs(np.float32(found) - exact))

    whole = error(read_whole(narrow, TOKENS, LENGTHS, 5))
    for model in (narrow, cast):
        assert 0 < error(read_in_steps(model, TOKENS, LENGTHS, 5)) < 2 * whole < 0.1


def test_kernels_are_chosen_by_the_experts_of_one_layer(monkeypatch):
    """Those of all layers alike lie in one stack, and only one layer's have rows."""
    shapes = []

    def choose(shape, backends):
        shapes.append(shape)
        return choice(shape, backends)

    choice = by_leg.choose
    monkeypatch.setattr(by_leg, "choose", choose)
    moe = {"backend": "by_leg", "num_experts": 6, "top_k": 2}
    config = tiny.model_config(init_std=0.3, num_layers=4, moe=moe)
    model = tiny.model(config)
    jax.eval_shape(LanguageModel.prefill, model, jnp.asarray(TOKENS), jnp.asarray(LENGTHS))
    assert shapes and {shape.experts for shape in shapes} == {6}
    assert {shape.rows for shape in shapes} == {2 * TOKENS.size}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("exchange", ["", pytest.param("gather", marks=pytest.mark.long)])
def test_every_layout(layout, exchange):
    if exchange not in ("", *EXCHANGES[layout]):
        exchange = "local"
    parallel = on(layout, exchange)
    mesh, layout = make_mesh(parallel, jax.devices()), layout_of(parallel)
    reference = tiny.model(CONFIG)
    with jax.set_mesh(mesh):
        skeleton = abstract_model(CONFIG, layout)
        model = with_parameters(skeleton, named_parameters(reference))
        found = read_in_steps(model, TOKENS, LENGTHS, 5)
    expected = read_whole(reference, TOKENS, LENGTHS, 5)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
