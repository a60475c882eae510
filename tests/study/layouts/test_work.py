"""FLOPs and bytes counted from the model, against the compiler's where it can count."""

import dataclasses

import jax
import pytest

from cartesian_moe_jax.models.fitting_mesh import mesh_of
from cartesian_moe_jax.models.segment import REMAT
from cartesian_moe_jax.study.layouts.step import abstract_step, compile_step
from cartesian_moe_jax.study.layouts.work import (
    RECOMPUTED,
    least_exchange_per_token,
    local_bytes,
    step_flops_per_token,
    work_of,
)
from tests import tiny


def config(remat="none", **parallel):
    """One layer without loops that repeat, wide enough that matmuls are what it does."""
    model = {
        "d_model": 128,
        "num_layers": 1,
        "d_ff": 512,
        "vocab_size": 512,
        "remat": remat,
        "moe": {"interval": 0},
    }
    return tiny.config(model=model, data={"seq_len": 64}, parallel=parallel)


@pytest.mark.parametrize("remat", ["none", "full"])
@pytest.mark.usefixtures("no_compiler")  # XLA does not see what C++ computes
def test_flops_are_those_that_the_compiler_counts(remat):
    mesh = mesh_of(config(remat), jax.devices()[:1])
    with jax.set_mesh(mesh):
        step = compile_step(config(remat), abstract_step(config(remat), mesh), mesh)
    counted = step.program.cost_analysis()["flops"]
    tokens = 8 * 64
    assert counted == pytest.approx(tokens * step_flops_per_token(config(remat)), rel=0.08)


def test_recomputing_all_layers_costs_their_forward_pass_again():
    none, full = (step_flops_per_token(config(remat)) for remat in ("none", "full"))
    head = 6 * 128 * 512
    assert full - head == pytest.approx((none - head) * 4 / 3)


def test_every_remat_policy_is_accounted_for():
    assert set(RECOMPUTED) == set(REMAT)


def test_the_least_exchange_is_one_copy_for_each_other_device_that_is_needed():
    # Two devices of 2 experts each, 2 of 4 chosen: both on one device in 2 of 6 cases, so the other
    # is reached in 1 - 1/6 of all. Forth and back, forward and backward; float32; 3 x 2 sub-layers.
    model = tiny.model_config(moe={"interval": 1})
    assert least_exchange_per_token(model, 2) == pytest.approx(6 * 4 * (5 / 6) * 16 * 4)
    assert least_exchange_per_token(model, 1) == 0
    again = dataclasses.replace(model, remat="full")
    assert least_exchange_per_token(again, 2) == pytest.approx(6 * 6 * (5 / 6) * 16 * 4)


def test_a_device_holds_its_share_and_does_its_share():
    split, whole = (
        tiny.config(parallel={"layout": name, "data": 0}, training={"batch_size": 8})
        for name in ("fsdp", "data")
    )
    of_split, of_whole = (abstract_step(c, mesh_of(c)).parameters for c in (split, whole))
    matrix = "embedding"
    assert 8 * local_bytes(of_split[matrix]) == local_bytes(of_whole[matrix]) == 4 * 384 * 16
    work = work_of(split, of_split, mesh_of(split)), work_of(whole, of_whole, mesh_of(whole))
    assert work[0].flops == work[1].flops == 16 * step_flops_per_token(split)
    assert work[0].memory_bytes < work[1].memory_bytes
