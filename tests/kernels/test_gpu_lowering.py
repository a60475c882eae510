"""What jax hands to the compiler for GPU, which needs no such compiler: kernels, no products."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from cartesian_moe_jax.kernels import ACTIVATIONS, FeedForwardWeights, grouped_feed_forward
from cartesian_moe_jax.platform import compiling_for

DEVICE = AbstractDevice("NVIDIA H200", 132, "gpu")
MESH = AbstractMesh((1,), ("one",), axis_types=(AxisType.Auto,), abstract_device=DEVICE)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize(
    ("rows", "activation"), [(1000, "swiglu"), *((4096, name) for name in ACTIVATIONS)]
)
def test_experts(rows, activation, dtype):
    gated = ACTIVATIONS[activation].gated
    x = jax.ShapeDtypeStruct((rows, 768), dtype)
    into, out = (jax.ShapeDtypeStruct((16, *s), jnp.float32) for s in ((768, 256), (256, 768)))
    weights = FeedForwardWeights(into if gated else None, into, out)
    run = functools.partial(grouped_feed_forward, activation=activation)
    sizes = jnp.full((16,), rows // 16)

    def both(x, weights, cotangent):
        output, pull = jax.vjp(lambda x, w: run(x, sizes, w), x, weights)
        return output, pull(cotangent)

    with compiling_for("gpu"), jax.sharding.use_abstract_mesh(MESH):
        traced = jax.jit(both).trace(x, weights, x)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    # Two forward and two to the rows, of several products each; one for each of the weights.
    assert text.count("custom_call @__gpu$xla.gpu.triton") == 4 + (3 if gated else 2)
    assert "stablehlo.dot_general" not in text and "ragged_dot" not in text
