"""Replica groups in every form that XLA writes, and the mesh axes they lie along."""

import pytest

from cartesian_moe_jax.study.layouts.groups import axes_of, groups_of

FORMS = {
    "{{0,1},{2,3}}": [[0, 1], [2, 3]],
    "{}": [[0, 1, 2, 3, 4, 5, 6, 7]],
    "[2,4]<=[8]": [[0, 1, 2, 3], [4, 5, 6, 7]],
    "[2,4]<=[4,2]T(1,0)": [[0, 2, 4, 6], [1, 3, 5, 7]],
    "mesh['a'=2,'b'=4] {'b'}": [[0, 1, 2, 3], [4, 5, 6, 7]],
    "mesh['a'=2,'b'=4] {'a'}": [[0, 4], [1, 5], [2, 6], [3, 7]],
    "mesh['a'=8,'b'=1] {'a','b'}": [[0, 1, 2, 3, 4, 5, 6, 7]],
    "mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}": [[0, 2, 4, 6], [1, 3, 5, 7]],
    "mesh['a'=8] {'a':(2)2}": [[0, 2], [1, 3], [4, 6], [5, 7]],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read(form):
    text = f"channel_id=1, replica_groups={form}, use_global_device_ids=true, metadata={{}}"
    assert groups_of(text, 8) == FORMS[form]


def test_pairs_of_a_permutation_are_read():
    assert groups_of("channel_id=2, source_target_pairs={{0,1},{1,0}}, x", 8) == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        ([[0, 1, 2, 3], [4, 5, 6, 7]], ("expert",)),
        ([[0, 4], [1, 5], [2, 6], [3, 7]], ("data",)),
        ([[0, 1, 2, 3, 4, 5, 6, 7]], ("data", "expert")),
        ([[0, 2], [1, 3], [4, 6], [5, 7]], ("expert",)),
        ([[0, 5]], ("data", "expert")),
        ([[0], [1]], ()),
    ],
)
def test_axes_are_those_along_which_members_differ(groups, axes):
    assert axes_of(groups, {"data": 2, "fsdp": 1, "expert": 4}) == axes
