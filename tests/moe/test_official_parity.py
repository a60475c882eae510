"""One layer of every method against the official implementation: values, choices, gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cartesian_moe_jax.models.parameters import FROZEN, named_parameters, with_parameters
from cartesian_moe_jax.moe.cartesian import CartesianProductLayer
from cartesian_moe_jax.moe.routing import RouterContext
from tests import official

VARIANTS = [
    "cartesian_shared",
    "cartesian_noshared",
    "cartesian_top1_shared",
    "smoe_top1_shared",
    "smoe_top2_shared",
    "smoe_top3_noshared",
    "finegrain_top4_double",
    "finegrain_top4_noshared",
    "topp_shared",
    "topp_noshared",
    "hash_top2_shared",
]
over_variants = pytest.mark.parametrize("variant", VARIANTS)
over_backends = pytest.mark.parametrize("backend", ["reference", "tiled"])


def official_layer(golden, backend):
    shape = official.sublayer_shape(golden, backend)
    sublayers = len(official.prefixes(golden))
    skeleton = nnx.eval_shape(lambda: CartesianProductLayer(shape, sublayers, rngs=nnx.Rngs(0)))
    return with_parameters(skeleton, official.layer_parameters(golden, "w"))


def context_of(golden):
    """Of a hash layer: the logits that it was given, as a table with a row per token."""
    if "hash_logits" not in golden:
        return RouterContext()
    table = golden["hash_logits"].reshape(-1, golden["hash_logits"].shape[-1])
    return RouterContext(jnp.arange(len(table)), jnp.asarray(table))


def chosen_in(golden, prefix):
    """The official choices [tokens, slots]; -1 is none."""
    name = "mid.topp_sorted_idx" if "mid.topp_sorted_idx" in golden else f"mid.{prefix}topk_idx"
    return golden[name]


@functools.cache
def results(variant, backend):
    """The golden arrays, output and statistics, and the gradients by layer and input."""
    golden = official.load(f"cartesianmoe_{variant}")
    layer, context = official_layer(golden, backend), context_of(golden)
    h = jnp.asarray(golden["h_in"]).reshape(-1, golden["h_in"].shape[-1])
    cotangent = golden["grad.cotangent"].reshape(h.shape)

    def scalar(layer, h):
        out, stats = layer(h, context)
        return jnp.sum(out * cotangent), (out, stats)

    with jax.default_matmul_precision("highest"):
        gradients, aux = jax.jit(jax.grad(scalar, argnums=(0, 1), has_aux=True))(layer, h)
    return golden, *aux, *gradients


@over_backends
@over_variants
def test_layer_equals_official(variant, backend):
    golden, out, stats, *_ = results(variant, backend)
    np.testing.assert_allclose(
        out.reshape(golden["h_out"].shape), golden["h_out"], rtol=2e-5, atol=1e-5
    )
    for i, prefix in enumerate(official.prefixes(golden)):
        chosen = chosen_in(golden, prefix)
        counts = np.bincount(chosen[chosen >= 0], minlength=stats.load.shape[-1])
        np.testing.assert_allclose(stats.load[i], counts / len(chosen), rtol=1e-6)
        np.testing.assert_allclose(
            stats.experts_per_token()[i], np.mean(np.sum(chosen >= 0, axis=1)), rtol=1e-6
        )


@over_backends
@over_variants
def test_gradients_equal_official(variant, backend):
    golden, _, _, d_layer, d_h = results(variant, backend)
    np.testing.assert_allclose(
        d_h.reshape(golden["h_in"].shape), golden["grad.h_in"], rtol=1e-4, atol=1e-5
    )
    ours, theirs = named_parameters(d_layer), official.layer_parameters(golden, "grad")
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        np.testing.assert_allclose(ours[name], gradient, rtol=1e-4, atol=1e-5, err_msg=name)
        assert (ours[name] != 0).any() != bool(FROZEN.search(name)), name
