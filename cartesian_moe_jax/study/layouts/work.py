"""What a train step must do on one device, counted from the model: no program is asked.

The compiler counts a loop's body once and knows nothing of custom kernels, so it cannot tell.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from cartesian_moe_jax.config import Config, ModelConfig
from cartesian_moe_jax.models.budget import NOT_MULTIPLIED
from cartesian_moe_jax.models.cost import ATTENTION_SCORES, BYTES, PARTS, Cost, model_cost, whole
from cartesian_moe_jax.models.feed_forwards import moe_layers, sublayer_shape
from cartesian_moe_jax.models.language_model import compute_dtype
from cartesian_moe_jax.models.parameters import logical_axes
from cartesian_moe_jax.moe.dispatch import exchange_of
from cartesian_moe_jax.moe.routers import router_named
from cartesian_moe_jax.parallel.layouts import layout_of, mesh_axes, without_batch_axes
from cartesian_moe_jax.parallel.mesh import batch_parts

RECOMPUTED: Mapping[str, frozenset[str]] = {
    "none": frozenset(),
    # Not products with weights, and not what is no product by name: kernels of their own.
    "dots": frozenset({ATTENTION_SCORES, "routed experts"}),
    "attention": frozenset(PARTS) - {"embedding", "head"},
    "full": frozenset({ATTENTION_SCORES, *PARTS}) - {"embedding", "head"},
}
"""Parts of a model (models/cost.py) whose forward pass is done again, by ``config.model.remat``."""


class Work(NamedTuple):
    """Of one device in one step."""

    flops: int | float
    """Of matmuls: forward, backward (twice that), and what remat does again."""
    memory_bytes: int | float
    """Read from and written to its memory, if everything between two matmuls is fused with them."""
    exchange_bytes: int | float
    """The least that it must send to reach the experts, and to have their updates back."""


def work_of(config: Config, parameters: Mapping[str, Any], mesh: Mesh) -> Work:
    """Return the work of one device; ``parameters`` are abstract, with shardings."""
    tokens = config.training.batch_size * config.data.seq_len
    local = tokens / batch_parts(mesh)
    axis = exchange_of(layout_of(config.parallel)).axis
    least = least_exchange_per_token(config.model, mesh.shape[axis]) if axis else 0.0
    flops = tokens * step_flops_per_token(config) / mesh.size
    return Work(flops, _memory_bytes(config, parameters, mesh, local), local * least)


def step_flops_per_token(config: Config) -> int | float:
    """Return the FLOPs of training on one token, recomputation included."""
    costs = model_cost(config)
    again = [cost for part, cost in costs.items() if part in RECOMPUTED[config.model.remat]]
    return whole(costs).training_flops + sum(map(_forward, again))


def least_exchange_per_token(model: ModelConfig, devices: int) -> int | float:
    """Return the bytes that a device must send for one of its tokens, if routing is even.

    One copy of the token goes to each other device that holds one of its experts, one update comes
    back; the backward pass does both again, and so does what is recomputed.
    """
    shape = sublayer_shape(model)
    experts, slots = model.moe.num_experts, router_named(model.moe.router).slots(shape)
    here = experts // devices
    reached = 1 - math.comb(experts - here, slots) / math.comb(experts, slots)
    exchanges = 4 + 2 * ("routed experts" in RECOMPUTED[model.remat])
    sublayers = len(moe_layers(model)) * model.moe.sublayers
    row = model.d_model * compute_dtype(model.compute_dtype).itemsize
    return sublayers * exchanges * (devices - 1) * reached * row


def local_bytes(array: Any) -> int:
    """Return what one device holds of an (abstract) array with a sharding."""
    return math.prod(_held(array)) * np.dtype(array.dtype).itemsize


def _memory_bytes(
    config: Config, parameters: Mapping[str, Any], mesh: Mesh, tokens: int | float
) -> int | float:
    itemsize = compute_dtype(config.model.compute_dtype).itemsize
    uses = [
        _use(name, value, config, mesh)
        for name, value in parameters.items()
        if not NOT_MULTIPLIED.search(name)
    ]
    weights = sum(use.weights for use in uses) * itemsize
    rows = sum(use.row for use in uses) * itemsize
    again = "attention" in RECOMPUTED[config.model.remat]  # whole layers
    # Of float32: parameters and two moments are read and written, gradients written and read.
    state = 8 * BYTES * sum(math.prod(_held(value)) for value in parameters.values())
    passes = (2 + again) * config.training.accumulate
    return passes * weights + (3 + again) * tokens * rows + state


class _Use(NamedTuple):
    """What one device does with one parameter, in numbers."""

    weights: int | float
    """That it multiplies with."""
    row: int | float
    """That one token puts in and gets out."""


def _use(name: str, parameter: Any, config: Config, mesh: Mesh) -> _Use:
    """Return the use of a matrix: whole along the axes that split the batch, where it is gathered.

    But experts stay where they are if tokens come to them.
    """
    axes = logical_axes(name)
    sizes = dict(zip(axes, parameter.shape, strict=True))
    kept = without_batch_axes(parameter.sharding.spec)
    split = math.prod(mesh.shape[axis] for entry in kept for axis in mesh_axes(entry))
    moved_to = exchange_of(layout_of(config.parallel)).axis if "experts" in sizes else None
    homes = mesh.shape[moved_to] if moved_to else 1
    width = config.model.d_model  # every matrix reads or writes the residual stream
    each = parameter.size / sizes.get("layers", 1) / sizes.get("experts", 1)
    times = sizes.get("layers", 1)
    if "experts" in sizes:
        times *= router_named(config.model.moe.router).slots(sublayer_shape(config.model))
    return _Use(parameter.size / split / homes, times * (width + each / width / split))


def _held(array: Any) -> tuple[int, ...]:
    return array.sharding.shard_shape(array.shape)


def _forward(cost: Cost) -> int | float:
    return cost.forward_flops
