"""Parameters where they are used: whole along the axes on which tokens differ.

A layout may split parameters over axes of the batch to save memory (FSDP). They are then gathered
for one layer at a time, in the dtype of the computation, and their gradients are summed into the
parts. The routed experts' weights are not among these: moe/expert_weights.py.
"""

import functools
import re

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from cartesian_moe_jax.models.parameters import (
    Model,
    logical_axes,
    named_parameters,
    with_parameters,
)
from cartesian_moe_jax.parallel.axes import BATCH_AXES
from cartesian_moe_jax.parallel.gathering import GATHERED
from cartesian_moe_jax.parallel.layouts import (
    Layout,
    mesh_axes,
    partition_spec,
    without_batch_axes,
)
from cartesian_moe_jax.parallel.mesh import current_mesh

ROUTED_EXPERTS = re.compile(r"(^|/)experts/")
IN_FLOAT32 = re.compile(r"(^|/)(router/\w+|table|gain|bias)$")
"""Parameters that the computation reads in float32."""


def in_use(module: Model, layout: Layout, dtype: jnp.dtype) -> Model:
    """Return the module with its parameters as its computation wants them."""
    if not gathers(layout):
        return module
    parameters = named_parameters(module)
    whole = {name: whole_in_use(value, name, layout, dtype) for name, value in parameters.items()}
    return with_parameters(module, whole)


def whole_in_use(
    parameter: Float[Array, "..."], name: str, layout: Layout, dtype: jnp.dtype
) -> Float[Array, "..."]:
    """Return the parameter called ``name`` as its computation wants it."""
    mesh = current_mesh()
    if ROUTED_EXPERTS.search(name) or mesh.size == 1:
        return parameter
    split = partition_spec(layout, mesh, logical_axes(name), parameter.shape, name)
    whole = without_batch_axes(split)
    if all(mesh.shape[a] == 1 for entry in split for a in mesh_axes(entry) if a in BATCH_AXES):
        return parameter
    target = parameter.dtype if IN_FLOAT32.search(name) else dtype
    return checkpoint_name(_gather(parameter, jnp.dtype(target), split, whole), GATHERED)


def narrowed(module: Model, dtype: jnp.dtype) -> Model:
    """Return the module with its parameters as its computation in ``dtype`` reads them.

    For writing: it need not read them wide and cast them again for every token.
    """
    parameters = named_parameters(module)
    narrow = {
        name: value if IN_FLOAT32.search(name) else value.astype(dtype)
        for name, value in parameters.items()
    }
    return with_parameters(module, narrow)


def gathers(layout: Layout) -> bool:
    """Say whether any parameter is split over an axis of the batch (but for experts, by theirs)."""
    return any(
        axis in BATCH_AXES and logical != "experts"
        for logical, entry in layout.rules.items()
        for axis in mesh_axes(entry)
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _gather(
    parameter: Float[Array, "..."], dtype: jnp.dtype, split: PartitionSpec, whole: PartitionSpec
) -> Float[Array, "..."]:
    """Return the parameter laid out as ``whole``; its gradient lies as ``split`` at once.

    Left to itself, the compiler may sum the whole gradient on every device.
    """
    return jax.lax.with_sharding_constraint(parameter.astype(dtype), whole)


def _forward(
    parameter: Float[Array, "..."], dtype: jnp.dtype, split: PartitionSpec, whole: PartitionSpec
) -> tuple[Float[Array, "..."], None]:
    return _gather(parameter, dtype, split, whole), None


def _backward(
    dtype: jnp.dtype,
    split: PartitionSpec,
    whole: PartitionSpec,
    residuals: None,
    gradient: Float[Array, "..."],
) -> tuple[Float[Array, "..."]]:
    return (jax.lax.with_sharding_constraint(gradient, split).astype(jnp.float32),)


_gather.defvjp(_forward, _backward)
