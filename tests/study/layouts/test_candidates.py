"""Which cases are compared."""

import pytest

from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.parallel.layouts import LAYOUTS
from cartesian_moe_jax.parallel.mesh import mesh_sizes, useful_sizes
from cartesian_moe_jax.study.layouts.candidates import candidates
from tests import tiny

CONFIG = tiny.config(parallel={"data": 0})  # 4 experts, 2 heads


def meshes(*layouts, devices=8, **options):
    cases = candidates(CONFIG, layouts, devices=devices, **options)
    useful = useful_sizes(CONFIG.model)
    sizes = [mesh_sizes(c.parallel, devices, useful) for c in cases]
    return [{axis: size for axis, size in mesh.items() if size > 1} for mesh in sizes]


def test_without_a_search_every_layout_is_a_case():
    assert [c.parallel.layout for c in candidates(CONFIG)] == list(LAYOUTS)


def test_rules_of_ones_own_are_the_only_case():
    own = tiny.config(parallel={"data": 0, "layout": "expert", "rules": "experts=expert"})
    assert [c.parallel for c in candidates(own)] == [own.parallel]


def test_exchanges_are_tried_where_tokens_move():
    cases = candidates(CONFIG, ["data", "expert"], ["gather", "all_to_all"])
    found = [(c.parallel.layout, c.parallel.exchange) for c in cases]
    assert found == [("data", ""), ("expert", "gather"), ("expert", "all_to_all")]


def test_a_search_tries_the_sizes_that_the_model_can_use():
    assert meshes("expert") == [{"expert": 2, "data": 4}, {"expert": 4, "data": 2}]
    assert meshes("fsdp") == [{"fsdp": 8}]
    assert meshes("tensor") == [{"tensor": 2, "data": 4}]
    assert meshes("expert_tensor") == [{"tensor": 2, "expert": 2, "data": 2}]


def test_a_search_over_slices_also_keeps_the_axes_within_one():
    assert meshes("fsdp", cells=2) == [{"fsdp": 8}, {"data": 2, "fsdp": 4}]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"layouts": ["datta"]}, "--layouts='datta'"),
        ({"exchanges": ["mail"]}, "--exchanges='mail'"),
    ],
)
def test_unknown_names(options, named):
    with pytest.raises(UserError, match=named):
        candidates(CONFIG, **options)
