"""Compiles a router's product and its gradients for a GPU: python -m tests.kernels.gpu_pieces.

Arguments: a target, tokens, inputs and outputs. Prints, as JSON, what the compiled program is made
of: the dtypes that each product reads and writes, roundings to bfloat16's precision by the shape
of what is rounded, and the number of kernels.
"""

import collections
import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cartesian_moe_jax.kernels import product_by_pieces
from cartesian_moe_jax.parallel.targets import parse_target
from cartesian_moe_jax.platform import compiling_for


def both(x, weight, d_output):
    output, pull = jax.vjp(product_by_pieces, x, weight)
    return output, pull(d_output)


def described(text):
    dtypes = dict(re.findall(r"%(\S+) = (\w+)\[", text))
    products = re.findall(r"= (\w+)\[\S+ dot\(%(\S+), %(\S+)\)", text)
    rounded = re.findall(r"= \w+\[([\d,]+)\]\S* reduce-precision\(.*mantissa_bits=7", text)
    entry = text[text.index("ENTRY") :]
    return {
        "products": sorted([dtypes[a], dtypes[b], result] for result, a, b in products),
        "other_products": len(re.findall(r"convolution\(|__cublas|__cudnn", text)),
        "roundings": collections.Counter(rounded),
        "kernels": len(re.findall(r" (?:fusion|copy|custom-call)\(", entry)),
    }


def main(target, *sizes):
    target, (tokens, inputs, outputs) = parse_target(target), map(int, sizes)
    device = target.devices()[0]
    whole = NamedSharding(Mesh(np.array([device]), ("one",)), PartitionSpec())
    shapes = [((tokens, inputs), jnp.bfloat16), ((inputs, outputs), jnp.float32)]
    arrays = [
        jax.ShapeDtypeStruct(shape, dtype, sharding=whole)
        for shape, dtype in [*shapes, ((tokens, outputs), jnp.float32)]
    ]
    with compiling_for(target.platform, device):
        text = jax.jit(both).lower(*arrays).compile().as_text()
    print(json.dumps(described(text)))


if __name__ == "__main__":
    main(*sys.argv[1:])
