"""The pieces into which GPU kernels cut grouped matmuls."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from cartesian_moe_jax.platform import target_device

GRAIN = 64
"""Widths are filled up to multiples of it, for blocks to divide them."""

LOW = 16
"""Rows of the lowest tiles."""

HOPPER_MEMORY = 227 * 1024
"""Bytes on chip that one block may have on Hopper (compute capability 9.0), and on Blackwell."""


class LegShape(NamedTuple):
    """What one leg of a grouped matmul computes."""

    leg: str
    """A name in BLOCKS."""
    rows: int
    experts: int
    inputs: int
    outputs: int
    products: int
    """How many products share their rows (forward) or are added up (to_rows)."""
    dtype: str


@dataclasses.dataclass(frozen=True)
class Block:
    """What one program computes at a time, and with what. Sizes are powers of two.

    Two of the three sizes are those of its result; along the third it sums, in steps.
    """

    rows: int
    inputs: int
    outputs: int
    warps: int
    stages: int
    """Steps whose operands are on chip at once, on their way or in use."""

    def shared_memory(self, shape: LegShape) -> int:
        """The bytes of the operands on chip; those of products that are added up take turns."""
        rows, weights = self.rows * self.inputs, self.inputs * self.outputs
        d_outputs = self.rows * self.outputs
        elements = {
            "forward": rows + shape.products * weights,
            "to_rows": d_outputs + weights,
            "to_weights": rows + d_outputs,
        }[shape.leg]
        return self.stages * elements * BYTES[shape.dtype]

    def accumulators(self, shape: LegShape) -> int:
        """The float32 registers that sums take in a thread, of 255."""
        sums = {
            "forward": shape.products * self.rows * self.outputs,
            # An activation's gradient is taken of one product, and takes as many again.
            "to_rows": self.rows * self.inputs * (2 if shape.products == 1 else 1),
            "to_weights": self.inputs * self.outputs,
        }[shape.leg]
        return sums // (32 * self.warps)

    def fits(self, shape: LegShape) -> bool:
        """Whether a kernel can be made of it that keeps its sums in registers."""
        whole = filled(shape.inputs) % self.inputs == filled(shape.outputs) % self.outputs == 0
        on_chip = self.shared_memory(shape) <= memory_on_chip() and self.accumulators(shape) <= 128
        return whole and on_chip


BYTES: Mapping[str, int] = MappingProxyType({"bfloat16": 2, "float16": 2, "float32": 4})

_FORWARD = (
    Block(128, 64, 256, 8, 3),
    Block(128, 64, 128, 8, 4),
    Block(128, 64, 128, 8, 3),
    Block(128, 64, 128, 4, 3),
    Block(64, 64, 256, 4, 3),
    Block(64, 64, 128, 4, 4),
    Block(128, 64, 64, 8, 3),
    Block(128, 64, 64, 4, 4),
    Block(64, 64, 64, 4, 4),
    Block(16, 64, 64, 4, 4),
)

BLOCKS: Mapping[str, tuple[Block, ...]] = MappingProxyType(
    {
        "forward": _FORWARD,
        "to_rows": tuple(
            dataclasses.replace(block, inputs=block.outputs, outputs=block.inputs)
            for block in _FORWARD
        ),
        "to_weights": (
            Block(64, 128, 256, 8, 3),
            Block(64, 128, 128, 8, 4),
            Block(64, 128, 128, 4, 3),
            Block(32, 128, 128, 8, 4),
            Block(64, 128, 64, 4, 4),
            Block(64, 64, 128, 4, 4),
            Block(64, 64, 64, 4, 4),
            Block(32, 64, 64, 4, 4),
        ),
    }
)
"""By leg, what to try: `tune` measures them, and unmeasured the first suitable one is taken."""

WIDE: Mapping[str, Block] = MappingProxyType(
    {leg: Block(32, 32, 32, 4, 2) for leg in ("forward", "to_rows", "to_weights")}
)
"""Of float32, which the tensor cores do not multiply."""


def memory_on_chip() -> int:
    """The bytes that one block may have on the GPU that programs are compiled for."""
    known = getattr(target_device(), "shared_memory_per_block_optin", None)
    return known or HOPPER_MEMORY


def filled(width: int) -> int:
    """`width` and what fills it up."""
    return -(-width // GRAIN) * GRAIN


def candidates(shape: LegShape) -> tuple[Block, ...]:
    """All blocks that a leg can be computed with."""
    if shape.dtype == "float32":
        return (WIDE[shape.leg],)
    return tuple(block for block in BLOCKS[shape.leg] if block.fits(shape))


def default_block(shape: LegShape) -> Block:
    """The block that is taken where none was measured.

    Low where groups are small, since a tile is computed whole however few rows it has; but the
    tensor cores are at their fastest from 64 rows on.
    """
    fitting = candidates(shape)
    if shape.leg == "to_weights":
        return fitting[0]
    mean = shape.rows / shape.experts
    limit = max(64, 1.5 * mean) if mean > LOW else LOW
    return next((block for block in fitting if block.rows <= limit), fitting[0])
