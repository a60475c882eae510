"""Compiles every block of every leg for a GPU: python -m tests.kernels.gpu_blocks TARGET.

Prints, as JSON, pairs of a leg with its block and what is wrong with it, none if it compiles. Of
kernels that Mosaic compiles, registers that do not suffice are wrong too, and products that wait
for one another.
"""

import json
import os
import re
import sys
import tempfile
from pathlib import Path

DUMP = Path(tempfile.mkdtemp())
os.environ |= {"MOSAIC_GPU_DUMP_TO": str(DUMP), "MOSAIC_GPU_DUMP_PTXAS": "1"}

import jax  # noqa: E402
import numpy as np  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402

from cartesian_moe_jax.kernels.by_leg import CANDIDATES, LEG_BACKENDS, available  # noqa: E402
from cartesian_moe_jax.kernels.leg_trials import (  # noqa: E402
    compile_run,
    feed_forward_legs,
    operands,
    run_of,
)
from cartesian_moe_jax.parallel.targets import parse_target  # noqa: E402
from cartesian_moe_jax.platform import compiling_for  # noqa: E402

SPILLED = 16
"""Bytes a thread that do not count."""


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
            for backend in [name for name in available() if name in CANDIDATES]:
                for block in CANDIDATES[backend](shape):
                    wrong = error(shape, LEG_BACKENDS[backend](block), arrays)
                    found.append((f"{backend} {shape.leg} x{shape.products} {block}", wrong))
    print(json.dumps(found))


def error(shape, matmul, arrays):
    try:
        compile_run(run_of(shape, matmul), arrays)
    except Exception as raised:
        return f"{type(raised).__name__}: {raised}"[:300]
    said = "".join(file.read_text() for file in DUMP.glob("*.ptxas"))
    for file in DUMP.iterdir():
        file.unlink()
    spilled = max(map(int, re.findall(r"(\d+) bytes spill stores", said)), default=0)
    return said[:300] if spilled > SPILLED or "serialized" in said else None


if __name__ == "__main__":
    main(*sys.argv[1:])
