"""Layouts compiled by the real compilers of chips that are not here, where these are installed."""

import pytest

from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.parallel.targets import parse_target
from cartesian_moe_jax.study.layouts.jobs import rows_of
from cartesian_moe_jax.study.layouts.setups import setup_of
from tests import tiny


def rows(target, *layouts, accumulate=1, batch_size=32, **model):
    """The rows of a small model; skips the test where the compiler is missing."""
    target = parse_target(target)
    try:
        setup = setup_of(target)
    except UserError as error:
        pytest.skip(str(error))
    small = {"num_layers": 2, "d_model": 128, "vocab_size": 256, "moe": {"interval": 0}}
    cases = [
        tiny.config(
            model=tiny.merged(small, model),
            parallel={"data": 0, **parallel},
            training={"batch_size": batch_size, "accumulate": accumulate},
        )
        for parallel in layouts
    ]
    return list(rows_of(cases, target, setup))


def sent(row):
    return {(c.kind, *c.axes): c.count for c in row.collectives}


def test_a_step_compiles_for_a_slice_of_tpus():
    data, fsdp, wrong = rows("tpu:v5p:2x2x2", {}, {"layout": "fsdp"}, {"data": 3})
    assert not data.reason and not fsdp.reason
    assert wrong.reason.startswith("config.parallel has data=3")
    assert data.memory_bytes == 95 * 2**30
    assert 8 * fsdp.parameter_bytes < 1.2 * data.parameter_bytes
    assert {kind for kind, *_ in sent(data)} == {"all-reduce"}
    assert not any(c.far_bytes for c in data.collectives), "a slice has no slow links"
    assert not any(c.assumed for c in fsdp.collectives), "its loops are counted"
    # Each of seven matrices in two layers, embedding and head: gathered once, as bfloat16.
    (gathered,) = [c for c in fsdp.collectives if c.kind == "all-gather"]
    assert gathered.count == 2 * 7 + 2
    assert gathered.near_bytes == pytest.approx(data.parameter_bytes / 2 * 7 / 8, rel=0.01)
    assert data.times.compute == pytest.approx(data.flops / 459e12)


@pytest.mark.long
def test_two_slices_reduce_gradients_over_their_network():
    (data,) = rows("tpu:v5p:2x2x1@2", {})
    assert not data.reason
    far = [c for c in data.collectives if c.far_bytes]
    assert {(c.kind, c.axes) for c in far} == {("all-reduce", ("data",))}
    # Each of 4 devices of a slice sends its quarter, as bfloat16, to the other slice: at the least.
    least = data.parameter_bytes / 2 / 4
    assert least <= sum(c.far_bytes for c in far) < 3 * least
    assert data.times.network == pytest.approx(sum(c.far_bytes for c in far) / 6.25e9)


@pytest.mark.long
def test_a_step_in_parts_gathers_over_a_whole_slice():
    """The compiler turns such gathers into sums, and fails to move those out of the loop."""
    (row,) = rows("tpu:v5p:2x2x2", {"layout": "fsdp"}, accumulate=2)
    assert not row.reason


@pytest.mark.long
def test_experts_compile_for_tpus_of_every_kind():
    for target in ("tpu:v5e:2x4", "tpu:v5e:8x8", "tpu:v6e:2x4", "tpu:v5p:2x2x2"):
        (row,) = rows(target, {"layout": "expert"}, batch_size=64, moe={"interval": 1})
        assert not row.reason
        assert row.exchange_bytes > row.least_exchange_bytes > 0


@pytest.mark.long
def test_a_step_compiles_for_hosts_of_gpus():
    data, expert = rows(
        "gpu:h200:2x4", {}, {"layout": "expert", "expert": 4, "data": 2}, moe={"interval": 1}
    )
    assert not data.reason and not expert.reason
    assert any(c.far_bytes for c in data.collectives), "two hosts reduce gradients"
    assert all(c.far_bytes == 0 for c in expert.collectives if c.axes == ("expert",))
    assert expert.memory_bytes == 151_397_597_184
