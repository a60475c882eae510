"""Schedules as the compiler for TPUs dumps them, and those of our kernels."""

import os
import re
import subprocess
import sys

import pytest

from benchmarks.tpu_schedule import Stretch, read_schedule, stretches
from tests.tpu import ENVIRONMENT, ROOT, needs_libtpu

DUMP = """== CAPACTIY:
MXU, XLU, VALU
    4     3     4
== UTILIZATION:
{}
"""


def test_a_long_pause_ends_a_stretch():
    used = [0, 4, 2, *[0] * 10, 4, *[0] * 65, 1, 1, 0]
    assert list(stretches(used, 4)) == [Stretch(13, 10 / 52), Stretch(2, 0.25)]
    assert list(stretches([0, 0], 4)) == []


def test_the_first_column_is_read():
    schedule = read_schedule(DUMP.format("0 1 0\n4 0 3\n3 0 0\n0 0 0"))
    assert schedule == (4, Stretch(2, 7 / 8))
    assert read_schedule(DUMP.format("0 1 0")).longest == Stretch(0, 0)
    with pytest.raises(ValueError, match="not a table"):
        read_schedule("Schedule analysis:")


@needs_libtpu
@pytest.mark.long
@pytest.mark.parametrize("target", ["tpu:v5p:2x2x1", "tpu:v6e:2x2"])
def test_the_matrix_units_are_taken_while_activations_are_computed(target):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "tpu_schedule", f"--target={target}"],
        cwd=ROOT,
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    shares = re.findall(r"^(?:forward|to_\w+) .* (\d+)%$", done.stdout, re.M)
    assert len(shares) == 6 and min(map(int, shares)) > 80
