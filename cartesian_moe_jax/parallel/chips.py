"""What chips can do, as data: peak rates, memory, links, and GPUs described for their compiler.

Sources: the pages of each TPU generation in Google Cloud's documentation
(docs.cloud.google.com/tpu/docs/v5e, v5p, v6e, v4); NVIDIA's datasheets of A100, H100, H200 and B200
(SXM modules); of what the GPU compiler is told, the specifications that openxla/xla publishes
(xla/backends/gpu/target_config/specs). Bandwidths are of one direction: makers often state both.
"""

import dataclasses
from collections.abc import Mapping

import jax

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Links:
    """How a device sends to others, in bytes per second and direction."""

    near: float
    """Of all links together that stay within a slice (ICI) or a host (NVLink)."""
    torus: int
    """Dimensions of the torus that those links make; 0: a switch, all of it for any pair."""
    far: float
    """One device's share of the network between slices or hosts."""


@dataclasses.dataclass(frozen=True)
class DescribedGPU:
    """What the compiler must know of a GPU that is not there."""

    name: str
    cores: int
    lanes: int
    """FP32 units of a core."""
    clock_ghz: float
    shared_memory: int
    """Bytes of a core."""
    block_memory: int
    """Bytes of it that one block may take."""
    l2_bytes: int
    memory_bytes: int
    compute_capability: int
    """The major number."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device, as jax counts them."""

    peak_flops: float
    """Dense bfloat16 (FLOP/s), by its maker's datasheet."""
    memory_bytes: int | None = None
    memory_bandwidth: float | None = None
    """Bytes per second."""
    links: Links | None = None
    described: DescribedGPU | None = None


_A100 = DescribedGPU(
    "NVIDIA A100-SXM4-80GB", 108, 64, 1.41, 167_936, 166_912, 41_943_040, 85_100_068_864, 8
)
_H100 = DescribedGPU(
    "NVIDIA H100 80GB HBM3", 132, 128, 1.98, 233_472, 232_448, 52_428_800, 84_942_979_072, 9
)
_H200 = dataclasses.replace(_H100, name="NVIDIA H200", memory_bytes=151_397_597_184)
_B200 = DescribedGPU(
    "NVIDIA B200", 148, 128, 1.965, 233_472, 232_448, 132_644_864, 191_514_411_008, 10
)

# The network of a v5e pod of 256 chips is 6.4 Tbps, of a v6e pod 25.6 Tbps, of a v5p chip 50 Gbps.
_V5E = Chip(197e12, 16 * GIB, 819e9, Links(200e9, torus=2, far=3.125e9))
_V5P = Chip(459e12, 95 * GIB, 2765e9, Links(600e9, torus=3, far=6.25e9))
_V6E = Chip(918e12, 32 * GIB, 1638e9, Links(400e9, torus=2, far=12.5e9))

# NVLink of 600, 900 and 1800 GB/s in both directions; one InfiniBand port a GPU, as in DGX: HDR
# 200 Gbps of an A100, NDR 400 Gbps of the others.
CHIPS: Mapping[str, Chip] = {
    "TPU v4": Chip(275e12, 32 * GIB, 1228e9),
    "TPU v5 lite": _V5E,
    "TPU v5": _V5P,
    "TPU v5p": _V5P,
    "TPU v6 lite": _V6E,
    "NVIDIA A100": Chip(312e12, _A100.memory_bytes, 2039e9, Links(300e9, 0, 25e9), _A100),
    "NVIDIA H100": Chip(989e12, _H100.memory_bytes, 3352e9, Links(450e9, 0, 50e9), _H100),
    "NVIDIA H200": Chip(989e12, _H200.memory_bytes, 4800e9, Links(450e9, 0, 50e9), _H200),
    "NVIDIA B200": Chip(2250e12, _B200.memory_bytes, 7672e9, Links(900e9, 0, 50e9), _B200),
}
"""Keyed by the start of ``jax.Device.device_kind``. CPUs are left out: their peak is not known."""

TARGET_TPUS: Mapping[str, Chip] = {"v5e": _V5E, "v5p": _V5P, "v6e": _V6E}
"""By their names in topologies, which are those of ``--target=tpu:NAME:SHAPE``."""

TARGET_GPUS: Mapping[str, Chip] = {
    name: CHIPS[f"NVIDIA {name.upper()}"] for name in ("a100", "h100", "h200", "b200")
}
"""By their names in ``--target=gpu:NAME:HOSTSxGPUS``."""


def chip_of(device: jax.Device) -> Chip | None:
    """Return the chip with the longest matching name, or None where the peak is not known."""
    names = [name for name in CHIPS if device.device_kind.startswith(name)]
    return CHIPS[max(names, key=len)] if names else None
