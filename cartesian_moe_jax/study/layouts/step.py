"""The train step of a config, compiled for a mesh that may not be here, and run if it is."""

import statistics
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cartesian_moe_jax.compiler_options import train_step_options
from cartesian_moe_jax.config import Config
from cartesian_moe_jax.models.build import abstract_model
from cartesian_moe_jax.parallel.layouts import layout_of
from cartesian_moe_jax.parallel.mesh import batch_parts, batch_sharding
from cartesian_moe_jax.training.optimizer import Rates, make_optimizer
from cartesian_moe_jax.training.state import TrainState, abstract_state, make_create_state
from cartesian_moe_jax.training.step import make_train_step
from cartesian_moe_jax.training.trainer import check_batch

ROUNDS = 5
"""Steps that are timed, after one that is not."""


class Step(NamedTuple):
    """A compiled step, and the shapes of what it changes."""

    state: TrainState
    """Abstract, with shardings."""
    program: Any
    compile_seconds: float


def abstract_step(config: Config, mesh: Mesh) -> TrainState:
    """Return the state's shapes and places; raises UserError if layout or batch do not fit."""
    check_batch(config, batch_parts(mesh))
    layout = layout_of(config.parallel)
    optimizer = make_optimizer(config.optimizer, config.training.steps, Rates.of(config.optimizer))
    return abstract_state(config.model, layout, optimizer, mesh)


def compile_step(config: Config, state: TrainState, mesh: Mesh) -> Step:
    """Compile what training runs: the state is donated, and comes out where it went in."""
    layout = layout_of(config.parallel)
    optimizer = make_optimizer(config.optimizer, config.training.steps, Rates.of(config.optimizer))
    skeleton = abstract_model(config.model, layout)
    step = make_train_step(skeleton, optimizer, config.model, config.training.accumulate)
    shape = (config.training.batch_size, config.data.seq_len + 1)
    tokens = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=batch_sharding(mesh))
    where = jax.tree.map(lambda leaf: leaf.sharding, state)
    options = train_step_options(mesh, config.training.accumulate)
    jitted = jax.jit(step, donate_argnums=0, out_shardings=(where, None), compiler_options=options)
    start = time.perf_counter()
    program = jitted.lower(state, tokens).compile()
    return Step(state, program, time.perf_counter() - start)


def measure_step(config: Config, step: Step, mesh: Mesh) -> float:
    """Return the median seconds of a step on random tokens."""
    layout = layout_of(config.parallel)
    optimizer = make_optimizer(config.optimizer, config.training.steps, Rates.of(config.optimizer))
    state = make_create_state(config.model, layout, optimizer, mesh)(np.uint32(0))
    shape = (config.training.batch_size, config.data.seq_len + 1)
    drawn = np.random.default_rng(0).integers(0, config.model.vocab_size, shape, np.int32)
    tokens = jax.device_put(drawn, batch_sharding(mesh))
    seconds = []
    for _ in range(1 + ROUNDS):
        start = time.perf_counter()
        state, report = step.program(state, tokens)
        jax.block_until_ready((state, report))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])
