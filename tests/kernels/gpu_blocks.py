"""Compiles every block of every leg for a GPU: python -m tests.kernels.gpu_blocks TARGET.

Prints, as JSON, pairs of a leg with its block and the error, none if it compiles.
"""

import json
import sys

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cartesian_moe_jax.kernels.blocks import candidates
from cartesian_moe_jax.kernels.leg_trials import compile_run, feed_forward_legs, operands, run_of
from cartesian_moe_jax.kernels.triton import triton_matmul
from cartesian_moe_jax.parallel.targets import parse_target
from cartesian_moe_jax.platform import compiling_for


def main(name):
    target = parse_target(name)
    device = target.devices()[0]
    mesh = Mesh(np.array([device]), ("one",))
    whole = NamedSharding(mesh, PartitionSpec())
    found = []
    with compiling_for(target.platform, device), jax.set_mesh(mesh):
        for shape in feed_forward_legs(16384, 32, 1024, 512, "bfloat16"):
            arrays = jax.tree.map(
                lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=whole),
                jax.eval_shape(lambda shape=shape: operands(shape)),
            )
            for block in candidates(shape):
                found.append(
                    (f"{shape.leg} x{shape.products} {block}", error(shape, block, arrays))
                )
    print(json.dumps(found))


def error(shape, block, arrays):
    try:
        compile_run(run_of(shape, triton_matmul(block)), arrays)
    except Exception as raised:
        return f"{type(raised).__name__}: {raised}"[:300]
    return None


if __name__ == "__main__":
    main(*sys.argv[1:])
