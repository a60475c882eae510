"""The least time a step can take on a chip: whichever of its parts is slowest, all overlapping."""

from collections.abc import Sequence
from typing import NamedTuple

from cartesian_moe_jax.parallel.chips import Chip
from cartesian_moe_jax.study.layouts.collectives import Collective


class Times(NamedTuple):
    """Seconds that each part takes at its peak rate, if it were alone."""

    compute: int | float
    """FLOPs at the bfloat16 peak."""
    memory: int | float
    """Traffic with the device's own memory."""
    links: int | float
    """Bytes sent within the slice or host, by the links that each collective can use."""
    network: int | float
    """Bytes sent between slices or hosts."""

    def step(self) -> int | float:
        """Return the estimated step time: that of the slowest part."""
        return max(self)

    def bound(self) -> str:
        """Return the name of the slowest part."""
        return max(self._fields, key=lambda name: getattr(self, name))


def step_times(
    chip: Chip, flops: int | float, memory_bytes: int | float, collectives: Sequence[Collective]
) -> Times:
    """Return the times of one device's work and collectives in a step."""
    near = sum(c.near_bytes / c.near_share for c in collectives)
    far = sum(c.far_bytes for c in collectives)
    return Times(
        compute=flops / chip.peak_flops,
        memory=memory_bytes / chip.memory_bandwidth,
        links=near / chip.links.near,
        network=far / chip.links.far,
    )
