"""All that a training step changes, as one pytree."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Float, Int, UInt32

from cartesian_moe_jax.compiler_options import RUN_ONCE, options_of
from cartesian_moe_jax.config import ModelConfig
from cartesian_moe_jax.models.build import build_model
from cartesian_moe_jax.models.parameters import named_parameters, parameter_shardings, trainable
from cartesian_moe_jax.parallel.layouts import Layout
from cartesian_moe_jax.parallel.mesh import replicated


class TrainState(NamedTuple):
    """Randomness is not part of it: it derives from the seed and the step."""

    step: Int[Array, ""]
    parameters: dict[str, Float[Array, "..."]]
    optimizer: Any
    """Of the trainable parameters alone."""
    not_finite_since: Int[Array, ""]
    """The first step whose loss or gradient norm was not finite; 0: there was none."""


def init_state(
    config: ModelConfig,
    layout: Layout,
    optimizer: optax.GradientTransformation,
    seed: int | UInt32[Array, ""],
) -> TrainState:
    """Return the state before the first step."""
    return first_state(named_parameters(build_model(config, layout, seed)), optimizer)


def first_state(
    parameters: dict[str, Float[Array, "..."]], optimizer: optax.GradientTransformation
) -> TrainState:
    """Return the state before the first step that moves these parameters."""
    none = jnp.zeros((), jnp.int32)
    return TrainState(none, parameters, optimizer.init(trainable(parameters)), none)


def state_shardings(state: TrainState, layout: Layout, mesh: Mesh) -> TrainState:
    """Return where each leaf of an (abstract) state lies: moments beside their parameter."""
    by_name = parameter_shardings(state.parameters, layout, mesh)

    def of_leaf(path: tuple[Any, ...], leaf: Any) -> jax.sharding.NamedSharding:
        name = getattr(path[-1], "key", None) if path else None
        return by_name.get(name, replicated(mesh))

    return jax.tree_util.tree_map_with_path(of_leaf, state)


def abstract_state(
    config: ModelConfig, layout: Layout, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """Return the state's shapes, dtypes and shardings: what a checkpoint must fit."""
    shapes = jax.eval_shape(lambda: init_state(config, layout, optimizer, seed=0))
    shardings = state_shardings(shapes, layout, mesh)
    return jax.tree.map(
        lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where), shapes, shardings
    )


def make_create_state(
    config: ModelConfig, layout: Layout, optimizer: optax.GradientTransformation, mesh: Mesh
) -> Callable[[UInt32[ArrayLike, ""]], TrainState]:
    """Return a compiled function of the seed that creates the state where it belongs.

    No device ever holds more than its part. The seed is an argument, since within the program
    it would make each seed compile anew.
    """
    where = jax.tree.map(lambda s: s.sharding, abstract_state(config, layout, optimizer, mesh))
    return jax.jit(
        lambda seed: init_state(config, layout, optimizer, seed),
        out_shardings=where,
        compiler_options=options_of(RUN_ONCE),
    )
