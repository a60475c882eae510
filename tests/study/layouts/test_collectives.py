"""Collectives read from real compiled programs on eight devices."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, PartitionSpec

from cartesian_moe_jax.parallel.chips import Links
from cartesian_moe_jax.study.layouts.collectives import collectives_of, summed
from cartesian_moe_jax.study.layouts.links import Place, near_share
from cartesian_moe_jax.study.layouts.program import read_program

MESH = {"data": 2, "expert": 4}
ROWS = 8 * 16 * 4  # bytes of the [8, 16] floats that each device holds


def compiled(body, mesh=None):
    """The program of ``body`` on [64, 16] floats split over all devices."""
    mesh = jax.make_mesh((2, 4), tuple(MESH), axis_types=(AxisType.Auto,) * 2)
    split = PartitionSpec(("data", "expert"))
    run = jax.shard_map(body, mesh=mesh, in_specs=split, out_specs=split, check_vma=False)
    return read_program(jax.jit(run).lower(jnp.zeros((64, 16))).compile().as_text())


def found(body, places=None):
    places = places or [Place(0)] * 8
    return [
        (c.kind, c.axes, c.count, c.near_bytes, c.far_bytes)
        for c in summed(collectives_of(compiled(body), MESH, places))
    ]


def gathered_in_a_scan(x):
    def again(carry, _):
        return jax.lax.all_gather(carry, "expert", tiled=True)[: carry.shape[0]] * 2, None

    return jax.lax.scan(again, x, None, length=3)[0]


def test_an_all_gather_in_a_loop_counts_as_often_as_the_loop_repeats():
    assert found(gathered_in_a_scan) == [("all-gather", ("expert",), 3, 3 * 3 * ROWS, 0)]


def test_loops_in_loops_multiply():
    def body(x):
        return jax.lax.scan(lambda c, _: (gathered_in_a_scan(c), None), x, None, length=5)[0]

    assert found(body) == [("all-gather", ("expert",), 15, 15 * 3 * ROWS, 0)]


def test_what_is_sent_by_each_kind():
    def body(x):
        x = jax.lax.all_to_all(x, "data", 0, 0, tiled=True)
        x = jax.lax.ppermute(x, "expert", [(i, (i + 1) % 4) for i in range(4)])
        part = jax.lax.psum_scatter(x, "data", tiled=True)
        return x + jax.lax.psum(part, ("data", "expert"))[0, 0]

    kinds = {(kind, axes): (count, near) for kind, axes, count, near, _ in found(body)}
    assert kinds == {
        ("all-to-all", ("data",)): (1, ROWS / 2),
        ("collective-permute", ("expert",)): (1, ROWS),
        ("reduce-scatter", ("data",)): (1, ROWS / 2),
        ("all-reduce", ("data", "expert")): (1, 2 * (ROWS / 2) * 7 / 8),
    }


def test_what_crosses_slices_is_told_apart():
    # The two groups along data are two slices: each gathers its own before they exchange.
    two = [Place(cell) for cell in (0, 0, 0, 0, 1, 1, 1, 1)]

    def body(x):
        return x + jax.lax.all_gather(x, ("data", "expert"), tiled=True).sum()

    assert found(body, two) == [("all-gather", ("data", "expert"), 1, 2 * 3 * ROWS, ROWS)]
    along_expert = found(gathered_in_a_scan, two)
    assert along_expert == [("all-gather", ("expert",), 3, 9 * ROWS, 0)]


def test_a_program_without_collectives_has_none():
    assert found(lambda x: x * 2) == []


def test_a_ring_along_one_of_three_dimensions_has_a_third_of_the_links():
    places = [Place(0, (x, y, z)) for x in range(2) for y in range(2) for z in range(2)]
    torus = Links(near=1.0, torus=3, far=1.0)
    assert near_share([[0, 1], [2, 3], [4, 5], [6, 7]], places, torus) == pytest.approx(1 / 3)
    assert near_share([[0, 1, 2, 3], [4, 5, 6, 7]], places, torus) == pytest.approx(2 / 3)
    assert near_share([list(range(8))], places, torus) == 1
    assert near_share([[0, 1]], places, Links(near=1.0, torus=0, far=1.0)) == 1


TPU_LIKE = """\
HloModule step

%body (state: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %state = (s32[]{:T(128)}, f32[8,16]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  %x = f32[8,16]{1,0:T(8,128)} get-tuple-element(%state), index=1
  %one = s32[] constant(1)
  %next = s32[]{:T(128)} add(%i, %one)
  %start = (f32[8,16]{1,0}, f32[64,16]{1,0}) all-gather-start(%x), replica_groups=[1,8]<=[8]
  %done = f32[64,16]{1,0} all-gather-done(%start)
  %named = f32[8,16]{1,0} copy(%x), metadata={op_name="jit(step)/combine/add"}
  %own = f32[8,16]{1,0} custom-call(%x), frontend_attributes={said={
"of": "a kernel"
}}, metadata={op_name="jit(step)/kernel"}
  %half = f32[1,16]{1,0} fusion(%named), kind=kCustom, calls=%all-reduce-scatter
  %sent = ((f32[8,16]), f32[8,16], u32[]) call-start(%x), to_apply=%elsewhere
  ROOT %out = (s32[], f32[8,16]{1,0}) tuple(%next, %x)
}

%all-reduce-scatter (given: f32[8,16]) -> f32[1,16] {
  %given = f32[8,16]{1,0} parameter(0)
  %sum = f32[8,16]{1,0} all-reduce(%given), replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  %zero = s32[] constant(0)
  ROOT %cut = f32[1,16]{1,0} dynamic-slice(%sum, %zero, %zero), dynamic_slice_sizes={1,16}
}

%elsewhere (taken: f32[8,16]) -> f32[8,16] {
  ROOT %taken = f32[8,16]{1,0} parameter(0)
}, execution_thread="sparsecore"

%condition (state: (s32[], f32[8,16])) -> pred[] {
  %state.1 = (s32[], f32[8,16]) parameter(0)
  %count = s32[] get-tuple-element(%state.1), index=0
  %bound = s32[] constant(BOUND)
  ROOT %less = pred[] compare(%count, %bound), direction=LT
}

ENTRY %main (x: f32[8,16]) -> f32[8,16] {
  %input = f32[8,16]{1,0} parameter(0)
  %first = s32[] constant(2)
  %copied = s32[] copy(%first)
  %begin = (s32[], f32[8,16]) tuple(%copied, %input)
  %loop = (s32[], f32[8,16]) while(%begin), condition=%condition, body=%body
  ROOT %result = f32[8,16] get-tuple-element(%loop), index=1
}
"""
"""As the TPU compiler writes: no known trip count, two halves, lines that go on, other threads,
a sum that a fusion scatters."""


def test_a_loop_of_which_nothing_is_said_counts_from_its_condition():
    program = read_program(TPU_LIKE.replace("BOUND", "8"))
    gathered, scattered = collectives_of(program, {"all": 8}, [Place(0)] * 8)
    assert (gathered.kind, gathered.count, gathered.near_bytes) == ("all-gather", 6, 6 * 7 * ROWS)
    assert (scattered.kind, scattered.count) == ("reduce-scatter", 6)
    assert scattered.near_bytes == 6 * ROWS * 7 / 8
    assert not gathered.assumed
    assert scattered.op_name == "jit(step)/combine/add", "where it is from, by what it reads"


SEND = """\
HloModule step

ENTRY %main (x: f32[8,16]) -> f32[8,16] {
  ROOT %x = f32[8,16]{1,0} parameter(0)
  %token = token[] after-all()
  %s = (f32[8,16], u32[], token[]) send(%x, %token), channel_id=2, is_host_transfer=true, FRONTEND
}
"""
TO_SLICES = (
    'frontend_attributes={_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="%s"}'
)


@pytest.mark.parametrize(
    ("transfer", "kind", "far"),
    [
        ("ALL_REDUCE", "all-reduce", ROWS),
        ("ALL_GATHER", "all-gather", ROWS),
        ("ALL_TO_ALL", "all-to-all", ROWS / 2),
        ("ONE_TO_ONE", "collective-permute", ROWS),
    ],
)
def test_what_goes_to_other_slices_through_the_host_is_counted(transfer, kind, far):
    two = [Place(cell) for cell in (0, 0, 0, 0, 1, 1, 1, 1)]
    program = read_program(SEND.replace("FRONTEND", TO_SLICES % transfer))
    (sent,) = collectives_of(program, MESH, two)
    assert (sent.kind, sent.axes, sent.near_bytes, sent.far_bytes) == (kind, ("data",), 0, far)


def test_a_send_that_stays_in_the_host_is_no_collective():
    assert collectives_of(read_program(SEND.replace("FRONTEND", "x=1")), MESH, [Place(0)] * 8) == []


def test_a_loop_whose_end_is_not_known_is_assumed():
    program = read_program(
        TPU_LIKE.replace("constant(BOUND)", "get-tuple-element(%state.1), index=0")
    )
    gathered, _ = collectives_of(program, {"all": 8}, [Place(0)] * 8, assumed_trips=11)
    assert (gathered.count, gathered.assumed) == (11, True)


RAGGED = """\
HloModule step

ENTRY %main (rows: f32[8,16], buffer: f32[BUFFER,16], places: s32[8]) -> f32[BUFFER,16] {
  %rows = f32[8,16]{1,0} parameter(0)
  %buffer = f32[BUFFER,16]{1,0} parameter(1)
  %places = s32[8]{0} parameter(2)
  ROOT %out = f32[BUFFER,16] ragged-all-to-all(%rows, %buffer, %places), replica_groups=[1,8]<=[8]
}
"""


@pytest.mark.parametrize(("buffer", "travels"), [(16, 8), (4, 4)])
def test_a_ragged_all_to_all_sends_rows_and_not_the_buffer_it_fills(buffer, travels):
    program = read_program(RAGGED.replace("BUFFER", str(buffer)))
    (swapped,) = collectives_of(program, {"all": 8}, [Place(0)] * 8)
    assert (swapped.kind, swapped.count) == ("ragged-all-to-all", 1)
    assert swapped.near_bytes == travels * 16 * 4 * 7 / 8
