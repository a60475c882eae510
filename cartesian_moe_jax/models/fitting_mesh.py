"""The mesh of a config: axes that the layout sizes itself are no larger than the model allows."""

from collections.abc import Sequence

import jax
from jax.sharding import Mesh

from cartesian_moe_jax.config import Config
from cartesian_moe_jax.models.build import abstract_model
from cartesian_moe_jax.models.parameters import logical_axes, named_parameters
from cartesian_moe_jax.parallel.layouts import layout_of
from cartesian_moe_jax.parallel.mesh import SplitDimension, make_mesh, useful_sizes


def mesh_of(config: Config, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Arrange the devices (default: all) for a model; raises UserError if they don't fit."""
    useful, split = useful_sizes(config.model), split_dimensions(config)
    return make_mesh(config.parallel, devices, useful, split)


def split_dimensions(config: Config) -> set[SplitDimension]:
    """Return what the layout splits of the parameters; nothing if the config sizes all its axes."""
    layout = layout_of(config.parallel)
    if all(getattr(config.parallel, axis) for axis in layout.fills if axis != "data"):
        return set()
    parameters = named_parameters(abstract_model(config.model, layout))
    return {
        SplitDimension(size, layout.splits(logical))
        for name, parameter in parameters.items()
        for logical, size in zip(logical_axes(name), parameter.shape, strict=True)
        if layout.splits(logical)
    }
