"""The decoder as a whole: causality, scanned depth, recomputation, precision, parameter names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.models.build import abstract_model, build_model
from cartesian_moe_jax.models.parameters import logical_axes, named_parameters, with_parameters
from cartesian_moe_jax.models.segment import REMAT
from cartesian_moe_jax.moe.routing import RouterContext
from cartesian_moe_jax.parallel.layouts import LAYOUTS
from tests import tiny

TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 257, (2, 12), np.int32))
CONTEXT = RouterContext(TOKENS.reshape(-1))
REFERENCE = {"backend": "reference"}


def small(**fields):
    return tiny.model_config(**({"num_layers": 2, "init_std": 0.2, "moe": REFERENCE} | fields))


def outputs(config, tokens=TOKENS):
    """Logits and statistics of a compiled forward pass."""
    model = tiny.model(config, seed=1)
    return jax.jit(lambda model, tokens: model(tokens))(model, tokens)


def output_shapes(config):
    return jax.eval_shape(lambda: build_model(config, LAYOUTS["data"], seed=1)(TOKENS))


@pytest.mark.parametrize("backend", ["reference", "tiled"])
def test_a_later_token_changes_no_earlier_logits(backend):
    changed = TOKENS.at[0, 7].add(1)
    logits, _ = outputs(small(moe={"backend": backend}), jnp.concatenate([TOKENS, changed]))
    before, after = logits[:2], logits[2:]
    np.testing.assert_allclose(after[0, :7], before[0, :7], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(after[1], before[1], rtol=1e-5, atol=1e-5)
    assert (jnp.max(jnp.abs(after[0, 7:] - before[0, 7:]), axis=-1) > 1e-3).all()


def test_a_scanned_segment_equals_its_layers_run_by_hand():
    # Layers c d c d are one segment: (c d) x 2.
    (segment,) = tiny.model(small(num_layers=4)).segments
    assert len(segment.blocks) == 2
    h = jax.random.normal(jax.random.key(4), (*TOKENS.shape, 16))

    def by_hand(segment, h):
        loads = []
        for repetition in range(2):
            for block in segment.blocks:
                one = jax.tree.map(lambda stacked, i=repetition: stacked[i], block)
                h, stats, _ = one(h, CONTEXT)
                loads += [] if stats is None else [stats.load]
        return h, jnp.stack(loads)

    scanned, stats = jax.jit(lambda segment, h: segment(h, CONTEXT))(segment, h)
    expected, loads = jax.jit(by_hand)(segment, h)
    np.testing.assert_allclose(scanned, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(stats.load, loads)
    assert loads.shape == (2, 2, 4)
    assert (loads[0] != loads[1]).any()


def lowered_gradient(remat="none", unroll=1, num_layers=4):
    """The lowered gradient of a sum over logits, and what it is to be taken at."""
    moe = {"interval": 1, "sublayers": 1, "num_experts": 2, "shared_expert": False, **REFERENCE}
    config = small(num_layers=num_layers, remat=remat, unroll=unroll, moe=moe)
    model = tiny.model(config, seed=1)

    def total(parameters):
        return jnp.sum(jnp.sin(with_parameters(model, parameters)(TOKENS)[0]))

    parameters = named_parameters(model)
    return jax.jit(jax.grad(total)).lower(parameters), parameters


def compiled_gradient(remat):
    lowered, parameters = lowered_gradient(remat)
    compiled = lowered.compile()
    return compiled, compiled(parameters)


def test_remat_changes_memory_but_no_gradient():
    (plain, expected), *others = map(compiled_gradient, REMAT)
    for compiled, gradients in others:
        assert gradients.keys() == expected.keys()
        for name, gradient in gradients.items():
            np.testing.assert_allclose(gradient, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)
        ours, theirs = compiled.memory_analysis(), plain.memory_analysis()
        assert ours.temp_size_in_bytes < theirs.temp_size_in_bytes


@pytest.mark.parametrize("remat", ["none", "full"])
def test_unrolled_layers_have_the_gradients_of_the_loop_and_need_none(remat):
    found = {}
    for unroll in (1, 2, 0, 9):
        lowered, parameters = lowered_gradient(remat, unroll, num_layers=5)
        loops = lowered.as_text().count("stablehlo.while")
        found[unroll] = loops, lowered.compile()(parameters)
    most, expected = found.pop(1)
    fewer = [most - loops for loops, _ in found.values()]
    assert fewer == [0, 2, 2], "over layers there is one forwards and one backwards"
    for _, gradients in found.values():
        for name, gradient in gradients.items():
            np.testing.assert_allclose(gradient, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_bfloat16_compute_gives_float32_logits_near_those_of_float32():
    # Experts that are all chosen: no choice can flip by rounding.
    moe = {"num_experts": 2, **REFERENCE}
    exact, _ = outputs(small(compute_dtype="float32", moe=moe))
    rounded, stats = outputs(small(compute_dtype="bfloat16", moe=moe))
    assert rounded.dtype == exact.dtype == jnp.float32
    assert stats.balance_loss.dtype == jnp.float32
    error = jnp.sqrt(jnp.mean((rounded - exact) ** 2) / jnp.mean(exact**2))
    assert 1e-5 < error < 0.02


def test_a_dense_model_has_no_statistics():
    logits, stats = output_shapes(small(moe={"interval": 0}))
    assert logits.shape == (*TOKENS.shape, 384)
    assert stats is None


def test_statistics_are_stacked_over_the_moe_layers_of_all_segments():
    # d | c d c d | c: three segments, three MoE layers.
    config = small(num_layers=6, moe={"offset": 1, "sublayers": 3, **REFERENCE})
    _, stats = output_shapes(config)
    assert stats.load.shape == (3, 3, 4)
    assert stats.balance_loss.shape == (3, 3)


@pytest.mark.parametrize(
    "fields",
    [
        {"num_layers": 5},
        {"activation": "gelu"},
        {"moe": {"interval": 0}},
        {"moe": {"shared_expert": False, "sublayers": 3}},
        {"moe": {"shared_expert_not_in": "1", "shared_feed_forwards": 2}},
        {"moe": {"router": "hash", "balance_loss": 0.0}},
        {"moe": {"router": "hash", "balance_loss": 0.0, "table_per_sublayer": True}},
    ],
)
def test_every_parameter_has_logical_axes_of_its_rank(fields):
    parameters = named_parameters(abstract_model(small(**fields), LAYOUTS["data"]))
    for name, shape in parameters.items():
        assert len(logical_axes(name)) == len(shape.shape), name


def test_sublayers_may_lack_the_shared_expert():
    config = small(num_layers=1, moe={"sublayers": 3, "shared_expert_not_in": "0,2"})
    names = named_parameters(abstract_model(config, LAYOUTS["data"]))
    having = {i for i in range(3) if any(f"sublayers/{i}/shared_expert" in n for n in names)}
    assert having == {1}


@pytest.mark.parametrize(
    "moe, words",
    [
        ({"router": "topp"}, r"config.model.moe.router='topp' is unknown: .*hash, softmax_top_k"),
        ({"router": "hash"}, r"moe.balance_loss=0.01 is not allowed: 0, since .*'hash' is not"),
        ({"router": "hash", "balance_loss": 0.0, "z_loss": 0.1}, r"moe.z_loss=0.1 .*'hash'"),
    ],
)
def test_routers_that_are_unknown_or_cannot_learn_what_is_asked(moe, words):
    with pytest.raises(UserError, match=words):
        abstract_model(small(moe=moe), LAYOUTS["data"])


def test_a_parameter_without_logical_axes_is_an_error():
    with pytest.raises(KeyError, match="'segments/0/memory'"):
        logical_axes("segments/0/memory")


def test_initial_weights_are_normal_gains_one_and_layers_of_a_stack_differ():
    parameters = named_parameters(
        build_model(small(init_std=0.02, moe={"interval": 0}), LAYOUTS["data"], seed=1)
    )
    for name, value in parameters.items():
        if name.endswith("gain"):
            assert (value == 1).all(), name
        else:
            assert float(jnp.std(value)) == pytest.approx(0.02, rel=0.2), name
            assert abs(float(jnp.mean(value))) < 0.004, name
    up = parameters["segments/0/blocks/0/feed_forward/feed_forward/up"]
    assert up.shape == (2, 16, 24)
    assert (up[0] != up[1]).all()


def test_parameters_by_name_make_the_same_model_again():
    model, other = tiny.model(small(), seed=1), tiny.model(small(), seed=2)
    named = named_parameters(model)
    assert any((named_parameters(other)[name] != value).any() for name, value in named.items())
    again = named_parameters(with_parameters(other, named))
    assert again.keys() == named.keys()
    assert all((again[name] == value).all() for name, value in named.items())
