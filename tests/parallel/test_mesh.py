import jax
import pytest

from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.parallel.layouts import LAYOUTS, Layout, partition_spec
from cartesian_moe_jax.parallel.mesh import current_mesh, make_mesh
from tests import tiny


def test_rest_of_the_devices():
    assert dict(make_mesh(tiny.parallel(expert=4)).shape) == {
        "data": 2,
        "fsdp": 1,
        "expert": 4,
        "tensor": 1,
    }
    assert make_mesh(tiny.parallel(), jax.devices()[:1]).size == 1


@pytest.mark.parametrize("sizes", [{"data": 3}, {"expert": 3}, {"data": -1, "fsdp": -1}])
def test_meshes_that_do_not_fit(sizes):
    with pytest.raises(UserError, match=r"config\.parallel has data="):
        make_mesh(tiny.parallel(**sizes))


def test_current_mesh_is_the_one_set_or_one_device():
    assert current_mesh().size == 1
    with jax.set_mesh(make_mesh(tiny.parallel())):
        assert current_mesh().size == 8


def test_layout_that_splits_an_axis_unevenly_names_parameter_and_axes():
    mesh = make_mesh(tiny.parallel(expert=4))
    with pytest.raises(UserError, match=r"experts/up: experts=6 .* 'expert' of size 4"):
        partition_spec(LAYOUTS["expert"], mesh, ("experts", "d_model"), (6, 8), "experts/up")


def test_layout_that_uses_a_mesh_axis_twice_names_both():
    layout = Layout({"d_model": "fsdp", "d_ff": "fsdp"}, exchange="local")
    mesh = make_mesh(tiny.parallel(fsdp=2))
    with pytest.raises(UserError, match="'fsdp' would split both 'd_model' and 'd_ff'"):
        partition_spec(layout, mesh, ("d_model", "d_ff"), (8, 8), "gate")
