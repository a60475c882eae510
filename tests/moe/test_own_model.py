"""The layer in a model of one's own: by the public names, on one device and on several."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType

import cartesian_moe_jax as cmoe

SHAPE = cmoe.SubLayerShape(d_model=16, num_experts=4, top_k=2, d_expert=12, init_std=0.3)
H = np.random.default_rng(0).normal(size=(4, 8, 16)).astype(np.float32)


def layer_of(layout="data"):
    return cmoe.CartesianProductLayer(SHAPE, layout=cmoe.LAYOUTS[layout], rngs=nnx.Rngs(0))


@jax.jit
def loss_and_gradients(layer, h):
    return jax.value_and_grad(lambda layer, h: jnp.sum(layer(h)[0] ** 2), argnums=(0, 1))(layer, h)


def assert_equal(actual, expected):
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    for a, e in pairs:
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5 * np.abs(e).max())


@pytest.mark.parametrize("layout", ["data", "expert", "expert_fsdp"])
def test_on_several_devices_it_computes_what_it_does_on_one(layout):
    expected = loss_and_gradients(layer_of(), H)
    with jax.set_mesh(cmoe.make_mesh(fsdp=2, expert=4)):
        layer = cmoe.placed(layer_of(layout), cmoe.LAYOUTS[layout])
        actual = loss_and_gradients(layer, H)
    assert_equal(actual, expected)
    gate = layer.sublayers[0].experts.gate[...]
    parts = {"data": 1, "expert": 4, "expert_fsdp": 8}
    assert gate.addressable_shards[0].data.size * parts[layout] == gate.size


def test_any_leading_axes_are_those_of_tokens():
    layer, run = layer_of(), jax.jit(lambda layer, h: layer(h))
    whole, _ = run(layer, H)
    flat, _ = run(layer, H.reshape(32, 16))
    assert whole.shape == H.shape
    np.testing.assert_array_equal(whole.reshape(32, 16), flat)


def test_vmap_gives_each_sequence_its_own_gradients():
    layer, h = layer_of(), jnp.asarray(H)
    each = jax.vmap(loss_and_gradients, (None, 0))(layer, h)
    expected = [loss_and_gradients(layer, one) for one in h]
    assert_equal(each, jax.tree.map(lambda *leaves: jnp.stack(leaves), *expected))


def test_it_can_be_copied_and_pickled():
    layout = cmoe.LAYOUTS["expert_fsdp"]
    assert pickle.loads(pickle.dumps(layout)) == layout
    assert_equal(copy.deepcopy(layer_of("expert")), layer_of("expert"))


@pytest.mark.parametrize(
    "shape, names, kind, words",
    [
        ((8,), ("x",), AxisType.Auto, "the axes x and lacks data, fsdp, expert, tensor: make it"),
        ((2, 1, 4, 1), ("data", "fsdp", "expert", "tensor"), AxisType.Explicit, "explicit axes d"),
    ],
)
def test_a_mesh_of_another_kind_is_an_error(shape, names, kind, words):
    mesh = jax.make_mesh(shape, names, axis_types=(kind,) * len(names))
    with jax.set_mesh(mesh), pytest.raises(cmoe.UserError, match=words):
        layer_of()(jnp.asarray(H))


def test_tokens_that_do_not_divide_are_an_error():
    words = "30 tokens do not divide among 8 devices"
    with jax.set_mesh(cmoe.make_mesh(data=2, expert=4)), pytest.raises(cmoe.UserError, match=words):
        layer_of()(jnp.ones((30, 16)))
