import jax
import pytest

from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.moe.dispatch import exchange_of
from cartesian_moe_jax.parallel.layouts import LAYOUTS, Layout, layout_of, partition_spec
from cartesian_moe_jax.parallel.mesh import (
    batch_shares,
    current_mesh,
    make_mesh,
    mesh_sizes,
    useful_sizes,
)
from tests import tiny
from tests.messages import message_of


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


USEFUL = {"expert": 4, "tensor": 2}


@pytest.mark.parametrize(
    "fields, sizes",
    [
        ({"layout": "data"}, (16, 1, 1, 1)),
        ({"layout": "fsdp"}, (1, 16, 1, 1)),
        ({"layout": "fsdp", "data": -1}, (16, 1, 1, 1)),
        ({"layout": "fsdp", "fsdp": 4}, (4, 4, 1, 1)),
        ({"layout": "fsdp", "data": 2}, (2, 8, 1, 1)),
        ({"layout": "expert"}, (4, 1, 4, 1)),
        ({"layout": "expert", "expert": 2}, (8, 1, 2, 1)),
        ({"layout": "expert_fsdp"}, (1, 4, 4, 1)),
        ({"layout": "expert_fsdp", "fsdp": 2}, (2, 2, 4, 1)),
        ({"layout": "expert_fsdp", "expert": 2, "fsdp": 2}, (4, 2, 2, 1)),
        ({"layout": "tensor"}, (8, 1, 1, 2)),
        ({"layout": "expert_tensor"}, (2, 1, 4, 2)),
        ({"layout": "expert_tensor", "tensor": 4}, (1, 1, 4, 4)),
        ({"layout": "expert", "fsdp": -1}, (1, 4, 4, 1)),
    ],
)
def test_sizes_that_the_layout_gives(fields, sizes):
    assert tuple(mesh_sizes(tiny.parallel(**fields), 16, USEFUL).values()) == sizes


@pytest.mark.parametrize(("experts", "heads", "sizes"), [(16, 4, (8, 4)), (6, 12, (2, 4))])
def test_what_a_model_can_use_divides_it_and_fits_a_host(experts, heads, sizes):
    config = tiny.model_config(d_model=48, num_heads=heads, moe={"num_experts": experts})
    assert tuple(useful_sizes(config).values()) == sizes


def test_sizes_that_leave_devices_over():
    with pytest.raises(UserError, match="data=2, fsdp=0, expert=0, tensor=0: does not fit 7"):
        mesh_sizes(tiny.parallel(data=2), 7, USEFUL)


RULES = "experts=expert,d_model=fsdp+expert"


def test_a_layout_of_ones_own():
    layout = layout_of(tiny.parallel(rules=RULES, exchange="all_to_all", bucket_factor=3.0))
    assert dict(layout.rules) == {"experts": "expert", "d_model": ("fsdp", "expert")}
    assert (layout.exchange, layout.bucket_factor) == ("all_to_all", 3.0)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"layout": "datta"}, ["config.parallel.layout='datta'", "expert_fsdp"]),
        ({"rules": "experts"}, ["config.parallel.rules", "mesh axis of 'experts'=''"]),
        ({"rules": "width=fsdp"}, ["config.parallel.rules", "'width'", "expert_d_model"]),
        ({"rules": "d_model=fsdq"}, ["config.parallel.rules", "'fsdq'", "tensor"]),
        ({"rules": "d_ff=fsdp+tensor"}, ["config.parallel.rules='d_ff=", "tensor must come first"]),
    ],
)
def test_layouts_that_cannot_be(fields, words):
    assert all(word in message_of(layout_of, tiny.parallel(**fields)) for word in words)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"exchange": "mail"}, ["config.parallel.exchange='mail'", "all_to_all"]),
        ({"exchange": "gather"}, ["config.parallel.exchange='gather'", "must split experts"]),
        (
            {"layout": "expert", "rules": "d_model=fsdp"},
            ["config.parallel.exchange='all_to_all'", "or the exchange be local"],
        ),
    ],
)
def test_exchanges_that_cannot_be(fields, words):
    assert all(
        word in message_of(exchange_of, layout_of(tiny.parallel(**fields))) for word in words
    )


def test_one_process_holds_the_whole_batch():
    assert batch_shares(make_mesh(tiny.parallel(tensor=2))) == [(0, 1)]
