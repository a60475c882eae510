"""How the TPU's own compiler schedules the kernels of the experts, without a TPU.

    python -m benchmarks tpu_schedule --target=tpu:v6e:2x2 --rows=32768 --experts=16

A TPU core issues one bundle of instructions a cycle, in the order that its compiler chose. Of each
leg the table has the longest stretch that multiplies, which is one strip of columns of a tile whose
rows are all one expert's: its bundles, and the mean share of the matrix units that they take.
Copies between the memories go on beside it; whether they keep up, it does not say. Needs libtpu
(`make targets`).
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
from jax.sharding import SingleDeviceSharding

from benchmarks.timing import format_table
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.kernels.blocks import LegShape
from cartesian_moe_jax.kernels.leg_trials import feed_forward_legs, operands, run_of
from cartesian_moe_jax.kernels.mosaic import MOSAIC
from cartesian_moe_jax.parallel.targets import Target, parse_target
from cartesian_moe_jax.platform import compiling_for
from cartesian_moe_jax.study.layouts.setups import setup_of

HEADER = ("leg", "inputs x outputs", "bundles in all", "longest stretch", "units taken")
DUMPED = "*grouped*final_hlo-static-per-bundle-utilization.txt"
GAP = 64
"""Bundles without a product that end a stretch."""


class Stretch(NamedTuple):
    """Bundles in a row that multiply."""

    bundles: int
    taken: float
    """The mean share of the matrix units."""


class Schedule(NamedTuple):
    """The bundles of one kernel, all branches of it."""

    bundles: int
    longest: Stretch


def stretches(used: Sequence[int], units: int) -> Iterator[Stretch]:
    """Cut the matrix units in use, bundle by bundle, where none is for GAP bundles."""
    busy = [at for at, count in enumerate(used) if count]
    begin = 0
    for i, at in enumerate(busy):
        if i + 1 == len(busy) or busy[i + 1] - at > GAP:
            own = used[busy[begin] : at + 1]
            yield Stretch(len(own), sum(own) / units / len(own))
            begin = i + 1


def read_schedule(text: str) -> Schedule:
    """Read what the compiler dumps of a kernel; raises ValueError for anything else."""
    found = re.search(r"^MXU, [^\n]*\n\s*(\d+).*?== UTILIZATION:\n(.*)", text, re.S | re.M)
    if not found:
        raise ValueError("not a table of the units that bundles use")
    used = [int(line.split()[0]) for line in found[2].splitlines() if line.strip()]
    return Schedule(len(used), max(stretches(used, int(found[1])), default=Stretch(0, 0.0)))


def compile_legs(target: Target, legs: Sequence[LegShape]) -> None:
    """Compile each leg for the target, in a process set up for it."""
    device = target.devices()[0]
    for leg in legs:
        arguments = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=SingleDeviceSharding(device)),
            jax.eval_shape(lambda leg=leg: operands(leg)),
        )
        with compiling_for(target.platform, device):
            jax.jit(run_of(leg, MOSAIC)).lower(*arguments).compile()


def schedules(target: Target, arguments: Sequence[str]) -> list[Schedule]:
    """Return the schedule of each leg, as the compiler dumps it in another process."""
    with tempfile.TemporaryDirectory() as folder:
        flags = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true"
        setup = setup_of(target)
        done = subprocess.run(
            [setup.python, "-m", "benchmarks.tpu_schedule", "--compile", *arguments],
            env=setup.environment | {"LIBTPU_INIT_ARGS": flags},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise UserError(f"the kernels were not compiled: {done.stderr.strip()[-600:]}")
        # Their names begin with the time.
        return [read_schedule(file.read_text()) for file in sorted(Path(folder).glob(DUMPED))]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--target", default="tpu:v6e:2x2", help="a TPU slice, as in tpu:v5p:2x2x1")
    sizes = {"rows": 32_768, "experts": 16, "d_model": 2048, "d_expert": 2048}
    for name, size in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--compile", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    target = parse_target(flags.target)
    if target.kind != "tpu":
        raise UserError(f"--target={flags.target!r} is not allowed: a TPU slice wanted")
    for name in sizes:
        if getattr(flags, name) < 1:
            raise UserError(f"--{name}={getattr(flags, name)} is not allowed: at least 1")
    legs = feed_forward_legs(*(getattr(flags, name) for name in sizes), "bfloat16")
    if flags.compile:
        compile_legs(target, legs)
        return
    found = schedules(target, sys.argv[1:])
    rows = [
        (
            f"{leg.leg} x{leg.products}",
            f"{leg.inputs} x {leg.outputs}",
            f"{schedule.bundles:,}",
            f"{schedule.longest.bundles:,}",
            f"{schedule.longest.taken:.0%}",
        )
        for leg, schedule in zip(legs, found, strict=True)
    ]
    print(f"bfloat16, {flags.rows:,} rows, {flags.experts} experts, {target.name}")
    print(format_table(HEADER, rows))


if __name__ == "__main__":
    main()
