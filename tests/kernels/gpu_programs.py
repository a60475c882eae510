"""Compiles grouped matmuls for a GPU: python -m tests.kernels.gpu_programs.

Arguments: a target, a backend, a dtype, and shapes: rows x d_model x d_expert x experts. Prints,
by shape, what the compiled experts with their gradients are made of: calls of each kernel,
products that are none, temporary bytes, and by kernel of Triton's the tensor cores' instructions in
it and whether its loops leave one of Hopper's products running while they issue the next.
"""

import collections
import functools
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

COMPILERS = r'"(?:__gpu\$xla\.gpu\.triton|mosaic_gpu_v\d)"'
DUMP = tempfile.mkdtemp()
os.environ["XLA_FLAGS"] = f"--xla_dump_to={DUMP} --xla_dump_emitter_re=.*"

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402

from cartesian_moe_jax.kernels import FeedForwardWeights, grouped_feed_forward  # noqa: E402
from cartesian_moe_jax.parallel.targets import parse_target  # noqa: E402
from cartesian_moe_jax.platform import compiling_for  # noqa: E402


def both(backend, rows, weights, group_sizes, cotangent):
    def forward(rows, weights):
        return grouped_feed_forward(
            rows, group_sizes, weights, activation="swiglu", backend=backend
        )

    output, pull = jax.vjp(forward, rows, weights)
    return output, pull(cotangent)


def compiled(sharding, backend, dtype, rows, d_model, d_expert, experts):
    def array(shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    into = array((experts, d_model, d_expert), jnp.float32)
    out = array((experts, d_expert, d_model), jnp.float32)
    x, sizes = array((rows, d_model), dtype), array((experts,), jnp.int32)
    run = jax.jit(functools.partial(both, backend))
    return run.lower(x, FeedForwardWeights(into, into, out), sizes, x).compile()


def described(program):
    text = program.as_text()
    calls = re.findall(rf"custom_call_target={COMPILERS}[^\n]*", text)
    names = [re.search(r'op_name="[^"]*/(grouped_\w+)/', call)[1] for call in calls]
    return {
        "kernels": collections.Counter(names),
        "products": len(re.findall(r" (convolution|dot)\(|__cublas|__cudnn", text)),
        "temporary_bytes": program.memory_analysis().temp_size_in_bytes,
        **assembly(),
    }


def assembly():
    """By kernel, of the program compiled last, the worst of those of one name."""
    found = {"tensor_core_instructions": {}, "overlapping": {}}
    for file in Path(DUMP).glob("*.ptx"):
        code = file.read_text()
        if kernel := re.search(r"\.entry (grouped_(forward|to_rows|to_weights))", code):
            counts = {
                "tensor_core_instructions": len(re.findall(r"wgmma\.mma_async|mma\.sync", code)),
                "overlapping": bool(re.search(r"wgmma\.wait_group\S*\s+[1-9]", code)),
            }
            for what, count in counts.items():
                found[what][kernel[1]] = min(count, found[what].get(kernel[1], count))
        file.unlink()
    return found


def main(target, backend, dtype, *shapes):
    target = parse_target(target)
    device = target.devices()[0]
    mesh = Mesh(np.array([device]), ("one",))
    found = {}
    with compiling_for(target.platform, device), jax.set_mesh(mesh):
        for shape in shapes:
            sizes = map(int, shape.split("x"))
            sharding = NamedSharding(mesh, PartitionSpec())
            found[shape] = described(compiled(sharding, backend, jnp.dtype(dtype), *sizes))
    shutil.rmtree(DUMP)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
