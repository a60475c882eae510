"""A model from its config and layout, and the shapes of one that is not there yet."""

import functools

import jax
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, UInt32

from cartesian_moe_jax.config import ModelConfig, MoEConfig
from cartesian_moe_jax.errors import UserError, lookup
from cartesian_moe_jax.kernels import ACTIVATIONS, BACKENDS
from cartesian_moe_jax.models.feed_forwards import IN_PLACE_OF_DENSE
from cartesian_moe_jax.models.language_model import LanguageModel
from cartesian_moe_jax.models.parameters import named_parameters, parameter_shardings
from cartesian_moe_jax.models.segment import REMAT
from cartesian_moe_jax.moe.dispatch import exchange_of
from cartesian_moe_jax.moe.routers import router_named
from cartesian_moe_jax.parallel.layouts import Layout


def build_model(
    config: ModelConfig, layout: Layout, seed: int | UInt32[Array, ""]
) -> LanguageModel:
    """Build a model with initial weights; raises UserError for a name it does not know."""
    lookup(ACTIVATIONS, config.activation, "config.model.activation")
    lookup(REMAT, config.remat, "config.model.remat")
    lookup({"auto": None, **BACKENDS}, config.moe.backend, "config.model.moe.backend")
    lookup(IN_PLACE_OF_DENSE, config.moe.layer, "config.model.moe.layer")
    _check_router(config.moe)
    exchange_of(layout)
    return LanguageModel(config, layout=layout, rngs=nnx.Rngs(params=jax.random.key(seed)))


def _check_router(moe: MoEConfig) -> None:
    """Raise UserError for an unknown router, or for losses on one that no loss can move."""
    learned = router_named(moe.router).learned
    for field in ("balance_loss", "z_loss"):
        value = getattr(moe, field)
        if value and moe.interval and not learned:
            raise UserError(
                f"config.model.moe.{field}={value} is not allowed: 0, since "
                f"config.model.moe.router={moe.router!r} is not learned"
            )


@functools.lru_cache(maxsize=128)
def abstract_model(config: ModelConfig, layout: Layout) -> LanguageModel:
    """Return the model's structure, with shapes in place of weights; callers share it."""
    return jax.eval_shape(lambda: build_model(config, layout, seed=0))


def abstract_parameters(
    skeleton: LanguageModel, layout: Layout, mesh: Mesh
) -> dict[str, jax.ShapeDtypeStruct]:
    """Return each parameter's shape, dtype and place on the mesh: what a checkpoint must fit."""
    shapes = named_parameters(skeleton)
    where = parameter_shardings(shapes, layout, mesh)
    return {
        name: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=where[name])
        for name, shape in shapes.items()
    }
