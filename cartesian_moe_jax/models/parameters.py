"""A model's parameters as a flat dict: path -> array, as in ``embedding`` or
``segments/0/blocks/1/feed_forward/sublayers/0/experts/gate``.

The state, checkpoints, shardings and error messages all speak of parameters by these names.
"""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import jax
from flax import nnx
from jax.sharding import AbstractMesh, Mesh, NamedSharding

from cartesian_moe_jax.parallel.layouts import Layout, partition_spec

Model = TypeVar("Model", bound=nnx.Module)

LOGICAL_AXES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"embedding", ("vocab", "d_model")),
    (r"head", ("d_model", "vocab")),
    (r"attention/(query|key|value)", ("d_model", "heads", "d_head")),
    (r"attention/out", ("heads", "d_head", "d_model")),
    (r"router/(weight|unused)", ("router_in", "router")),
    (r"table", ("vocab", "router")),
    (r"experts/(gate|up)", ("experts", "expert_d_model", "d_expert")),
    (r"experts/down", ("experts", "d_expert", "expert_d_model")),
    (r"feed_forwards?(/\d+)?/(gate|up)", ("d_model", "d_ff")),
    (r"feed_forwards?(/\d+)?/down", ("d_ff", "d_model")),
    (r"shared_expert/coefficient", ("coefficient_in", "coefficient")),
    (r"shared_expert/bias", ("coefficient",)),
    (r"gain", ("gain",)),
)
"""Logical axes by the end of a parameter's name; under ``segments/`` a first axis ``layers``.

Those that no rule may name (parallel/layouts.py) are of small parameters, whole everywhere."""


FROZEN = re.compile(r"(^|/)(table|router/unused)$")
"""Parameters that training leaves alone: no gradient, no decay, no optimizer state."""


def named_parameters(model: nnx.Module) -> dict[str, Any]:
    """Return the parameters (arrays, or their shapes for an abstract model) by name."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(model)
    return {_name(path): value for path, value in leaves}


def with_parameters(model: Model, parameters: Mapping[str, Any]) -> Model:
    """Return the model with these values in place of its own (which may be abstract)."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(model)
    return structure.unflatten([parameters[_name(path)] for path, _ in leaves])


def trainable(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that training moves."""
    return {name: value for name, value in parameters.items() if not FROZEN.search(name)}


def logical_axes(name: str) -> tuple[str, ...]:
    """Return the logical axes of the parameter called ``name``."""
    for pattern, axes in LOGICAL_AXES:
        if re.search(rf"(^|/){pattern}$", name):
            return ("layers", *axes) if name.startswith("segments/") else axes
    raise KeyError(f"no logical axes are listed for parameter {name!r}")


def parameter_shardings(
    parameters: Mapping[str, Any], layout: Layout, mesh: Mesh | AbstractMesh
) -> dict[str, NamedSharding]:
    """Return where each parameter lies; raises UserError if the layout does not fit the model."""
    return {
        name: NamedSharding(
            mesh, partition_spec(layout, mesh, logical_axes(name), value.shape, name)
        )
        for name, value in parameters.items()
    }


def placed(module: Model, layout: Layout) -> Model:
    """Return the module with its parameters on the devices of the mesh in force, by the layout.

    ``module`` is a model, or a layer of one. Raises UserError if the layout does not fit it.
    """
    parameters = named_parameters(module)
    where = parameter_shardings(parameters, layout, jax.sharding.get_mesh())
    return with_parameters(module, jax.device_put(parameters, where))


def _name(path: tuple[Any, ...]) -> str:
    """Turn a key path such as ``.norms[0].gain.value`` into ``norms/0/gain``."""
    return "/".join(re.findall(r"\w+", jax.tree_util.keystr(path).removesuffix(".value")))
