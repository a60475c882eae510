"""Compiles the kernels with their gradients for a TPU: python -m tests.kernels.tpu_programs.

Arguments: a topology; `experts` or `attention`; what is recomputed, a name in REMAT; a dtype; and
shapes, as in 4096x768x1536x16 (rows,
d_model, d_expert, experts) or 4x4096x16x128 (batch, seq, heads, d_head). Prints what the compiled
programs are made of, by shape.
"""

import collections
import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cartesian_moe_jax.kernels import FeedForwardWeights, grouped_feed_forward
from cartesian_moe_jax.models.attend import attend
from cartesian_moe_jax.models.segment import REMAT
from cartesian_moe_jax.parallel.axes import AXES
from cartesian_moe_jax.platform import compiling_for


def experts(dtype, rows, d_model, d_expert, experts):
    def forward(rows, weights, group_sizes):
        return grouped_feed_forward(rows, group_sizes, weights, activation="swiglu")

    into, out = (
        jax.ShapeDtypeStruct((experts, *s), jnp.float32) for s in _sides(d_model, d_expert)
    )
    x = jax.ShapeDtypeStruct((rows, d_model), dtype)
    sizes = jax.ShapeDtypeStruct((experts,), jnp.int32)
    return forward, (x, FeedForwardWeights(into, into, out)), (sizes,), x


def attention(dtype, *shape):
    x = jax.ShapeDtypeStruct(shape, dtype)
    return attend, (x, x, x), (), x


def _sides(d_model, d_expert):
    return (d_model, d_expert), (d_expert, d_model)


def compiled(mesh, forward, moved, fixed, cotangent):
    """The program of the output and the gradients of `moved`."""

    def both(moved, fixed, cotangent):
        output, pull = jax.vjp(lambda *moved: forward(*moved, *fixed), *moved)
        return output, pull(cotangent)

    arguments = jax.tree.map(
        lambda s: s.update(sharding=NamedSharding(mesh, PartitionSpec())),
        (moved, fixed, cotangent),
    )
    return jax.jit(both).lower(*arguments).compile()


def described(program):
    """Calls of each kernel, products that are none, operations, and temporary bytes."""
    text = program.as_text()
    names = re.findall(r'%(\w+)[.\d]* = [^\n]*custom_call_target="tpu_custom_call"', text)
    return {
        "kernels": collections.Counter(names),
        "products": len(re.findall(r" (convolution|dot)\(", text)),
        "operations": program.cost_analysis()["flops"],
        "temporary_bytes": program.memory_analysis().temp_size_in_bytes,
    }


def main(topology, what, remat, dtype, *shapes):
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    one = np.array(devices[:1]).reshape((1,) * len(AXES))
    mesh = Mesh(one, AXES, axis_types=(AxisType.Auto,) * len(AXES))
    of_shape = {"experts": experts, "attention": attention}[what]
    found = {}
    with compiling_for("tpu"), jax.set_mesh(mesh):
        for shape in shapes:
            forward, *arguments = of_shape(jnp.dtype(dtype), *map(int, shape.split("x")))
            found[shape] = described(compiled(mesh, REMAT[remat](forward), *arguments))
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
