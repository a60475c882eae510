"""The arithmetic of the estimate."""

import pytest

from cartesian_moe_jax.parallel.chips import Chip, Links
from cartesian_moe_jax.study.layouts.collectives import Collective
from cartesian_moe_jax.study.layouts.roofline import step_times
from cartesian_moe_jax.study.layouts.wire import KINDS

CHIP = Chip(1e12, 10**9, 1e11, Links(near=1e10, torus=2, far=1e9))


def collective(near, far, share=1.0):
    return Collective("all-gather", ("data",), 1, near, far, share)


def test_each_part_at_its_rate_and_the_slowest_binds():
    times = step_times(CHIP, 2e12, 1e11, [collective(1e10, 1e9), collective(1e10, 0, share=0.5)])
    assert times._asdict() == {"compute": 2.0, "memory": 1.0, "links": 3.0, "network": 1.0}
    assert (times.step(), times.bound()) == (3.0, "links")


def test_without_collectives_compute_or_memory_bind():
    assert step_times(CHIP, 1e12, 1e9, []).bound() == "compute"
    assert step_times(CHIP, 1e10, 1e11, []).bound() == "memory"


@pytest.mark.parametrize(
    ("kind", "near", "far"),
    [
        ("all-gather", 2 * 4 * 3, 4),
        ("reduce-scatter", 4 * 3 / 4, 4 / 4 / 2),
        ("all-reduce", 2 * 4 * 3 / 4, 2 * 4 / 4 / 2),
        ("all-to-all", 4 * 3 / 8, 4 / 2),
        ("ragged-all-to-all", 4 * 3 / 8, 4 / 2),
        ("collective-permute", 0, 4),
    ],
)
def test_what_one_of_eight_devices_in_two_slices_sends(kind, near, far):
    assert KINDS[kind](4.0, 4, 2) == pytest.approx((near, far))
