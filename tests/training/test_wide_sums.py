"""With a computation in bfloat16, what is summed by element is summed in float32."""

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import jaxprs_in_params

from cartesian_moe_jax.models.build import abstract_model
from cartesian_moe_jax.models.fitting_mesh import mesh_of
from cartesian_moe_jax.parallel.layouts import layout_of
from cartesian_moe_jax.study.layouts.step import abstract_step
from cartesian_moe_jax.training.optimizer import Rates, make_optimizer
from cartesian_moe_jax.training.step import make_train_step
from tests import tiny

SUMS = {"reduce_sum", "scatter-add", "cumsum", "reduce_window_sum"}
"""Products are not among them: they accumulate in float32 and are rounded once."""


def equations(jaxpr):
    """All equations, with those of inner programs."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


@pytest.mark.parametrize("method", ["cartesian", "dense"])
def test_no_sum_is_narrow(method):
    moe = {"interval": 1 if method == "cartesian" else 0}
    config = tiny.config(model={"compute_dtype": "bfloat16", "moe": moe})
    mesh, layout = mesh_of(config, jax.devices()[:1]), layout_of(config.parallel)
    rates = Rates.of(config.optimizer)
    optimizer = make_optimizer(config.optimizer, config.training.steps, rates)
    step = make_train_step(abstract_model(config.model, layout), optimizer, config.model, 1)
    shape = (config.training.batch_size, config.data.seq_len + 1)
    with jax.set_mesh(mesh):
        tokens = jax.ShapeDtypeStruct(shape, jnp.int32)
        program = jax.make_jaxpr(step)(abstract_step(config, mesh), tokens)
    found = list(equations(program.jaxpr))
    assert any(v.aval.dtype == jnp.bfloat16 for e in found for v in e.outvars)
    narrow = [
        (equation.primitive.name, equation.invars[0].aval, str(equation.source_info.name_stack))
        for equation in found
        if equation.primitive.name in SUMS and equation.invars[0].aval.dtype == jnp.bfloat16
    ]
    assert narrow == []
