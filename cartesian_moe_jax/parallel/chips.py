"""What chips can do, as data."""

import dataclasses
from collections.abc import Mapping

import jax


@dataclasses.dataclass(frozen=True)
class Chip:
    """Dense bfloat16 peak of one device (FLOP/s), by its maker's datasheet."""

    peak_flops: float


CHIPS: Mapping[str, Chip] = {
    "TPU v4": Chip(275e12),
    "TPU v5 lite": Chip(197e12),
    "TPU v5": Chip(459e12),
    "TPU v5p": Chip(459e12),
    "TPU v6 lite": Chip(918e12),
    "NVIDIA A100": Chip(312e12),
    "NVIDIA H100": Chip(989e12),
    "NVIDIA H200": Chip(989e12),
}
"""Keyed by the start of ``jax.Device.device_kind``. CPUs are left out: their peak is not known."""


def chip_of(device: jax.Device) -> Chip | None:
    """Return the chip with the longest matching name, or None where the peak is not known."""
    names = [name for name in CHIPS if device.device_kind.startswith(name)]
    return CHIPS[max(names, key=len)] if names else None
