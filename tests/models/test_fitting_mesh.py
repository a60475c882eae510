"""Meshes that layouts choose for a model: as many devices as its dimensions divide among."""

import pytest

from cartesian_moe_jax.models.build import abstract_model, abstract_parameters
from cartesian_moe_jax.models.fitting_mesh import mesh_of
from cartesian_moe_jax.parallel.axes import AXES
from cartesian_moe_jax.parallel.layouts import LAYOUTS, layout_of
from cartesian_moe_jax.parallel.mesh import make_mesh, useful_sizes
from tests import tiny

ODD = {"d_model": 20}
WIDE = {"d_model": 64, "num_heads": 8}
CASES = [
    ({"layout": "fsdp"}, ODD, (2, 4, 1, 1)),
    ({"layout": "expert_fsdp"}, ODD, (2, 1, 4, 1)),
    ({"layout": "expert_fsdp", "expert": 2}, ODD, (2, 2, 2, 1)),
    ({"layout": "tensor"}, WIDE | {"moe": {"d_expert": 12}}, (2, 1, 1, 4)),
    ({"layout": "expert_tensor"}, WIDE | {"d_ff": 26}, (1, 1, 4, 2)),
    ({"layout": "expert"}, {"moe": {"num_experts": 6}}, (4, 1, 2, 1)),
    # Widths that no layer has do not count.
    ({"layout": "tensor"}, WIDE | {"moe": {"d_expert": 13, "interval": 0}}, (1, 1, 1, 8)),
]


def config_of(parallel, model):
    return tiny.config(model=model, parallel={"data": 0} | parallel)


@pytest.mark.parametrize(("parallel", "model", "sizes"), CASES)
def test_sizes_divide_what_the_layout_splits(parallel, model, sizes):
    config = config_of(parallel, model)
    mesh, layout = mesh_of(config), layout_of(config.parallel)
    assert mesh.axis_names == AXES
    assert mesh.axis_sizes == sizes
    abstract_parameters(abstract_model(config.model, layout), layout, mesh)


@pytest.mark.parametrize("fields", [{}, {"data": -1}, {"expert": 2}])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_where_all_devices_fit_all_are_used(layout, fields):
    config = config_of({"layout": layout} | fields, WIDE | {"d_ff": 64, "moe": {"d_expert": 16}})
    regardless = make_mesh(config.parallel, useful=useful_sizes(config.model))
    assert mesh_of(config).axis_sizes == regardless.axis_sizes
