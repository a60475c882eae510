"""The Cartesian Product Layer against the official implementation: values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cartesian_moe_jax.models.parameters import named_parameters, with_parameters
from cartesian_moe_jax.moe.cartesian import CartesianProductLayer
from cartesian_moe_jax.moe.sublayer import SubLayerShape
from tests import official


def official_layer(golden, backend):
    variant = official.meta(golden)["variant"]
    experts, d_model = golden["w.a.router"].shape
    shape = SubLayerShape(
        d_model=d_model,
        num_experts=experts,
        top_k=variant["moe_top_k"],
        d_expert=golden["w.a.expert_gate"].shape[1],
        shared_expert=variant["use_residual"],
        backend=backend,
    )
    layer = CartesianProductLayer(shape, rngs=nnx.Rngs(0))
    return with_parameters(layer, official.cartesian_layer_parameters(golden, "w"))


@pytest.mark.parametrize("backend", ["reference", "tiled"])
@pytest.mark.parametrize("variant", ["shared", "noshared", "top1_shared"])
def test_layer_equals_official(variant, backend):
    golden = official.load(f"cartesianmoe_cartesian_{variant}")
    layer = official_layer(golden, backend)
    h = jnp.asarray(golden["h_in"]).reshape(-1, golden["h_in"].shape[-1])

    with jax.default_matmul_precision("highest"):
        out, stats = jax.jit(lambda layer, h: layer(h))(layer, h)
    np.testing.assert_allclose(
        out.reshape(golden["h_out"].shape), golden["h_out"], rtol=2e-5, atol=1e-5
    )
    for i, letter in enumerate("ab"):
        chosen = golden[f"mid.{letter}.topk_idx"]
        load = np.bincount(chosen.ravel(), minlength=stats.load.shape[-1]) / len(chosen)
        np.testing.assert_allclose(stats.load[i], load, rtol=1e-6)


@pytest.mark.parametrize("backend", ["reference", "tiled"])
@pytest.mark.parametrize("variant", ["shared", "noshared", "top1_shared"])
def test_gradients_equal_official(variant, backend):
    golden = official.load(f"cartesianmoe_cartesian_{variant}")
    layer = official_layer(golden, backend)
    h = jnp.asarray(golden["h_in"]).reshape(-1, golden["h_in"].shape[-1])
    cotangent = golden["grad.cotangent"].reshape(h.shape)

    def scalar(layer, h):
        return jnp.sum(layer(h)[0] * cotangent)

    with jax.default_matmul_precision("highest"):
        d_layer, d_h = jax.jit(jax.grad(scalar, argnums=(0, 1)))(layer, h)
    np.testing.assert_allclose(
        d_h.reshape(golden["h_in"].shape), golden["grad.h_in"], rtol=1e-4, atol=1e-5
    )
    ours = named_parameters(d_layer)
    theirs = official.cartesian_layer_parameters(golden, "grad")
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        np.testing.assert_allclose(ours[name], gradient, rtol=1e-4, atol=1e-5, err_msg=name)
