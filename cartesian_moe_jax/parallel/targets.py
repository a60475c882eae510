"""What programs are compiled for, and maybe run on: ``--target=tpu:v5p:4x4x4`` and its like.

cpu:8                 8 virtual devices of this machine
local                 the devices of this machine
tpu:v5p:4x4x4         64 chips of a TPU slice; tpu:v5p:4x4x4@2 are two such slices
gpu:h200:4x8          4 hosts of 8 GPUs

A TPU or GPU target is compiled by its own compiler and needs no such device.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
from jax.experimental import topologies

from cartesian_moe_jax.errors import UserError, lookup
from cartesian_moe_jax.parallel.chips import TARGET_GPUS, TARGET_TPUS, Chip
from cartesian_moe_jax.parallel.described_gpu import target_config

FORMS = "cpu:N, local, tpu:CHIP:SHAPE[@SLICES], gpu:CHIP:HOSTSxGPUS"


@dataclasses.dataclass(frozen=True)
class Target:
    """Devices by name; ``devices()`` describes them to jax and works in a process set up for it."""

    name: str
    kind: str
    """cpu, local, tpu or gpu: what the process that compiles is set up by."""
    platform: str
    """cpu, gpu or tpu: what kernels and dtypes are chosen by; empty: the platform that is here."""
    chip: Chip | None
    """None where it is not known before jax starts (local), or at all (cpu)."""
    size: int | None
    """Number of devices; None: as many as there are."""
    cells: int
    """Slices of TPUs, or hosts of GPUs: links between these are slow."""
    devices: Callable[[], list[jax.Device]]
    runs: bool = False
    """Whether programs can run, not only be compiled."""


def parse_target(text: str) -> Target:
    """Read ``--target``; raises UserError naming what is wrong and what is allowed."""
    kind, _, rest = text.partition(":")
    if kind not in KINDS:
        raise UserError(f"--target={text!r} is unknown: allowed are {FORMS}")
    return KINDS[kind](text, rest)


def _cpu(text: str, rest: str) -> Target:
    size = _numbers(text, rest, r"\d+", "cpu:N, as in cpu:8")[0]
    return Target(text, "cpu", "cpu", None, size, 1, lambda: jax.devices("cpu")[:size], runs=True)


def _local(text: str, rest: str) -> Target:
    if text != "local":
        raise UserError(f"--target={text!r} is not allowed: local takes nothing behind it")
    return Target(text, "local", "", None, None, 1, jax.devices, runs=True)


def _tpu(text: str, rest: str) -> Target:
    name, _, shape = rest.partition(":")
    chip = lookup(TARGET_TPUS, name, "--target=tpu:CHIP")
    shape, at, slices = shape.partition("@")
    example = {2: "8x8", 3: "4x4x4"}[chip.links.torus]
    form = "x".join([r"\d+"] * chip.links.torus)
    sides = _numbers(text, shape, form, f"tpu:{name}:{example} or tpu:{name}:{example}@SLICES")
    count = _numbers(text, slices, r"\d+", f"tpu:{name}:{example}@2")[0] if at else 1

    def devices() -> list[jax.Device]:
        return list(
            topologies.get_topology_desc(
                platform="tpu", topology_name=f"{name}:{shape}", num_slices=count
            ).devices
        )

    return Target(text, "tpu", "tpu", chip, math.prod(sides) * count, count, devices)


def _gpu(text: str, rest: str) -> Target:
    name, _, shape = rest.partition(":")
    chip = lookup(TARGET_GPUS, name, "--target=gpu:CHIP")
    hosts, gpus = _numbers(text, shape, r"\d+x\d+", f"gpu:{name}:HOSTSxGPUS, as in gpu:{name}:4x8")

    def devices() -> list[jax.Device]:
        return list(
            topologies.get_topology_desc(
                platform="cuda",
                topology_name=name,
                topology=f"1x{hosts}x{gpus}",
                target_config=target_config(chip),
            ).devices
        )

    return Target(text, "gpu", "gpu", chip, hosts * gpus, hosts, devices)


KINDS: Mapping[str, Callable[[str, str], Target]] = MappingProxyType(
    {"cpu": _cpu, "local": _local, "tpu": _tpu, "gpu": _gpu}
)


def _numbers(text: str, found: str, form: str, wanted: str) -> list[int]:
    """Return the numbers of ``found``, all above 0, if it has the form."""
    numbers = [int(digits) for digits in re.findall(r"\d+", found)]
    if not re.fullmatch(form, found) or not all(numbers):
        raise UserError(f"--target={text!r} is not allowed: {wanted} is wanted")
    return numbers
