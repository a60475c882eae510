"""Which product scores tokens, by their dtype and the platform, and what moves between devices."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from cartesian_moe_jax.moe.routers.float32_product import float32_product
from cartesian_moe_jax.moe.routers.linear_scores import linear_scores
from cartesian_moe_jax.parallel.axes import BATCH
from cartesian_moe_jax.parallel.mesh import make_mesh
from cartesian_moe_jax.platform import compiling_for
from tests import tiny

FLOAT32, PIECES = ("float32", 4), ("bfloat16", 12)
"""Of the only product of four experts: the dtype of its operands, and its columns."""


@pytest.mark.parametrize(
    ("platform", "dtype", "product"),
    [
        ("cpu", "bfloat16", FLOAT32),
        ("gpu", "bfloat16", PIECES),
        ("tpu", "bfloat16", PIECES),
        ("gpu", "float32", FLOAT32),
        ("tpu", "float32", FLOAT32),
        ("gpu", "float16", FLOAT32),
    ],
)
def test_the_target_and_the_dtype_decide(platform, dtype, product):
    x, weight = jax.ShapeDtypeStruct((6, 8), dtype), jax.ShapeDtypeStruct((8, 4), "float32")
    with compiling_for(platform):
        text = jax.jit(lambda x, w: linear_scores(x, w).logits).lower(x, weight).as_text()
    dots = re.findall(r"dot_general .*: \(tensor<6x8x(\w+)>, tensor<8x(\d+)x(\w+)>\)", text)
    short = {"float32": "f32", "bfloat16": "bf16"}[product[0]]
    assert dots == [(short, str(product[1]), short)]


def gradients(x, weight, d_output):
    output, pull = jax.vjp(float32_product, x, weight)
    return (output, *pull(d_output))


def operands(tokens):
    rng = np.random.default_rng(0)
    x, weight, d_output = (rng.normal(size=s) for s in ((tokens, 24), (24, 4), (tokens, 4)))
    return jnp.bfloat16(x), jnp.float32(weight), jnp.float32(d_output)


@pytest.mark.parametrize("sizes", [{"data": 8}, {"data": 2, "fsdp": 2, "tensor": 2}])
@pytest.mark.parametrize("tokens", [64, 30])
def test_devices_together_find_what_one_finds(tokens, sizes):
    """Also where they do not divide the tokens, and all take all."""
    arrays, mesh = operands(tokens), make_mesh(tiny.parallel(layout="data", **sizes))
    with compiling_for("gpu"):
        alone = jax.jit(lambda *arrays: gradients(*arrays))(*arrays)
        with jax.set_mesh(mesh):
            together = jax.jit(lambda *arrays: gradients(*arrays))(*arrays)
    for ours, theirs in zip(together, alone, strict=True):
        np.testing.assert_allclose(np.float32(ours), np.float32(theirs), rtol=1e-2, atol=1e-5)
    np.testing.assert_allclose(together[2], alone[2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("split", [P(), P("fsdp")], ids=str)
def test_devices_sum_the_gradient_of_the_weight_not_its_pieces(split):
    mesh = make_mesh(tiny.parallel(layout="data", data=2, fsdp=2, tensor=2))
    placed = [
        jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=NamedSharding(mesh, spec))
        for a, spec in zip(operands(64), (BATCH, split, BATCH), strict=True)
    ]
    with compiling_for("gpu"), jax.set_mesh(mesh):
        text = jax.jit(gradients).lower(*placed).compile().as_text()
    moved = re.findall(r"= (\S+?)\{\S* (all-\w+|reduce-scatter|collective-\w+)\(", text)
    assert ("f32[24,4]", "all-reduce") in moved
    assert set(moved) <= {("f32[24,4]", "all-reduce"), ("f32[24,4]", "all-gather")}
