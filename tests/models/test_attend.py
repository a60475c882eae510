"""Attention by a kernel that XLA cannot partition, over meshes of several devices."""

import jax
import numpy as np
import pytest
from jax.extend.core import Primitive
from jax.sharding import AxisType, PartitionSpec

from cartesian_moe_jax.kernels import ATTENTIONS, is_attention_residual
from cartesian_moe_jax.models import attend as module
from cartesian_moe_jax.models.attend import attend, attention_spec
from cartesian_moe_jax.parallel.axes import AXES


def mesh_of(*sizes):
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES))


@pytest.mark.parametrize(
    ("sizes", "batch", "heads", "spec"),
    [
        ((2, 2, 2, 1), 8, 3, (("data", "fsdp", "expert"), None, "tensor")),
        ((2, 1, 2, 2), 4, 4, (("data", "fsdp", "expert"), None, "tensor")),
        ((2, 1, 2, 2), 2, 3, (("data", "fsdp"), None, None)),
        ((1, 4, 2, 1), 6, 4, (("data", "expert"), None, "tensor")),
    ],
)
def test_axes_that_divide_nothing_evenly_split_nothing(sizes, batch, heads, spec):
    assert attention_spec(mesh_of(*sizes), batch, heads) == PartitionSpec(*spec)


@pytest.mark.parametrize("sizes", [(2, 1, 2, 2), (2, 2, 2, 1)])
@pytest.mark.parametrize("batch", [4, 3])
def test_equals_one_device(monkeypatch, sizes, batch):
    keys = jax.random.split(jax.random.key(0), 4)
    *inputs, cotangent = (jax.random.normal(k, (batch, 40, 4, 8)) for k in keys)

    def outcome(function):
        out, pull = jax.vjp(jax.jit(function), *inputs)
        return out, *pull(cotangent)

    monkeypatch.setattr(module, "best_causal_attention", lambda *_: ATTENTIONS["splash"])
    with jax.set_mesh(mesh_of(*sizes)):
        over_mesh = outcome(attend)
    for a, b in zip(over_mesh, outcome(ATTENTIONS["xla"].run), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_equals_one_device_without_a_mesh(monkeypatch):
    inputs = [jax.random.normal(k, (2, 9, 2, 8)) for k in jax.random.split(jax.random.key(0), 3)]
    monkeypatch.setattr(module, "best_causal_attention", lambda *_: ATTENTIONS["splash"])
    expected = ATTENTIONS["xla"].run(*inputs)
    np.testing.assert_allclose(jax.jit(attend)(*inputs), expected, rtol=1e-5, atol=1e-5)


def test_remat_finds_the_forward_kernel_of_cudnn():
    assert is_attention_residual(Primitive("dot_product_attention_fwd_wrapper"))
    assert not is_attention_residual(Primitive("dot_product_attention_bwd_wrapper"))
