"""What every layout sends: a change that makes one gather more, or elsewhere, fails here."""

import pytest

from cartesian_moe_jax.parallel.layouts import LAYOUTS
from cartesian_moe_jax.parallel.targets import parse_target
from cartesian_moe_jax.study.layouts.case import compare_case
from tests import tiny

MESHES = {
    "expert": {"expert": 4, "data": 2},
    "expert_fsdp": {"expert": 4, "fsdp": 2},
    "tensor": {"tensor": 2, "data": 4},
    "expert_tensor": {"expert": 4, "tensor": 2},
}
"""Of layouts that could share eight devices otherwise."""

# One layer: query, key, value, out; gate, up and down of experts in two sub-layers; and embedding
# and head. Routers are whole everywhere.
ATTENTION, EXPERTS, ENDS = 4, 6, 2
# To the experts go rows, ids, weights and priorities, back come rows and which pairs were computed;
# backward the gradients of rows go, those of rows and weights come.
GATHERED, SCATTERED = 2 * (4 + 1), 2 * (2 + 2)

EXPECTED = {
    "data": {},
    "fsdp": {
        ("all-gather", "fsdp"): ATTENTION + EXPERTS + ENDS,
        ("reduce-scatter", "fsdp"): EXPERTS + ENDS,
    },
    "expert": {
        ("all-gather", "expert"): GATHERED,
        ("reduce-scatter", "expert"): SCATTERED,
    },
    "expert_fsdp": {
        ("all-gather", "fsdp+expert"): ATTENTION,
        ("all-gather", "fsdp"): EXPERTS + ENDS,
        ("all-gather", "expert"): GATHERED + ENDS,
        ("reduce-scatter", "fsdp"): EXPERTS + ENDS,
        ("reduce-scatter", "expert"): SCATTERED + ENDS,
    },
    "tensor": {},
    "expert_tensor": {
        ("all-gather", "expert"): GATHERED,
        ("reduce-scatter", "expert"): SCATTERED,
    },
}
"""How often, but for sums: the compiler joins these as it likes."""

SUMS = {
    "data": {"data"},
    "fsdp": {"fsdp"},
    "expert": {"data+expert", "data", "expert"},
    "expert_fsdp": {"fsdp+expert", "fsdp", "expert"},
    "tensor": {"data", "tensor"},
    "expert_tensor": {"expert", "tensor"},
}
"""The mesh axes that are summed over."""


def counts_of(layout, exchange):
    """The row of a layout, and how often each kind of collective runs along which axes."""
    moe = {"interval": 1, "backend": "reference", "shared_expert": False}
    config = tiny.config(
        model={"num_layers": 1, "moe": moe},
        parallel={"data": 0, "layout": layout, "exchange": exchange} | MESHES.get(layout, {}),
        optimizer={"name": "sgd", "clip_norm": 0.0},  # less to compile
    )
    row = compare_case(config, parse_target("cpu:8"))
    assert not row.reason
    return row, {(c.kind, "+".join(c.axes)): c.count for c in row.collectives}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_sends_what_it_must(layout):
    has_experts = "expert" in MESHES.get(layout, {})
    row, counts = counts_of(layout, "gather" if has_experts else "")
    sums = {axes for kind, axes in counts if kind == "all-reduce"}
    assert {key: n for key, n in counts.items() if key[0] != "all-reduce"} == EXPECTED[layout]
    assert sums == SUMS[layout]
    if has_experts:
        # Rows go to all 3 others, and 5 small numbers a slot; 2 of 4 experts are on half of them.
        needed = 3 * (1 - (3 * 2) / (4 * 3))
        sent = 3 * (4 * 16 + 5 * 2) / (4 * 16)
        assert row.exchange_bytes / row.least_exchange_bytes == pytest.approx(sent / needed)


def test_all_to_all_sends_rows_and_labels_there_and_rows_back():
    row, counts = counts_of("expert", "all_to_all")
    # In two sub-layers, forward and backward; nothing else moves along the expert axis but sums.
    assert {key: n for key, n in counts.items() if key[0] != "all-reduce"} == {
        ("all-to-all", "expert"): 2 * (4 + 3)
    }
    # Two even shares are all rows, to each of 3 others; labels are 3 floats a slot, as are their
    # gradients, and one comes back.
    needed = 3 * (1 - (3 * 2) / (4 * 3))
    sent = 3 * (4 * 16 + (3 + 3 + 1) * 2) / (4 * 16)
    assert row.exchange_bytes / row.least_exchange_bytes == pytest.approx(sent / needed)
