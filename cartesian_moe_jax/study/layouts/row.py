"""One row of the comparison: a layout on a mesh, and what it costs on one device."""

import dataclasses
import json
from typing import Any

from cartesian_moe_jax.study.layouts.collectives import Collective
from cartesian_moe_jax.study.layouts.roofline import Times


@dataclasses.dataclass(frozen=True)
class Row:
    """Bytes and FLOPs are those of one device in one step; None is what is not known."""

    layout: str
    exchange: str = ""
    mesh: dict[str, int] = dataclasses.field(default_factory=dict)
    """Size of each mesh axis."""
    reason: str = ""
    """Why there is no program, in one line; empty if there is one."""
    parameter_bytes: int | None = None
    optimizer_bytes: int | None = None
    temporary_bytes: int | None = None
    total_bytes: int | None = None
    """All that the program needs at once."""
    memory_bytes: int | None = None
    """What the device has."""
    flops: int | float | None = None
    memory_traffic_bytes: int | float | None = None
    """What the model asks for, if all between two products is fused with them."""
    moved_bytes: int | float | None = None
    """What the kernels of the program read and write."""
    moved_seconds: int | float | None = None
    """How long that takes the device's memory."""
    collectives: list[Collective] = dataclasses.field(default_factory=list)
    """Summed by kind and axes."""
    exchange_bytes: int | float | None = None
    """Sent by what brings tokens to experts and back."""
    least_exchange_bytes: int | float | None = None
    times: Times | None = None
    """The roofline's; None where the chip's rates are not known."""
    compile_seconds: int | float | None = None
    step_seconds: int | float | None = None
    """Measured: the median."""

    def excess_bytes(self) -> int | None:
        """Return what the device lacks (below 0: has left); None if it is not known."""
        if self.total_bytes is None or self.memory_bytes is None:
            return None
        return self.total_bytes - self.memory_bytes

    def sent_bytes(self) -> int | float:
        """Return what the device sends."""
        return sum(c.near_bytes + c.far_bytes for c in self.collectives)

    def order(self) -> tuple[int | float, ...]:
        """Return what rows are sorted by, best first.

        Those that compile and fit come first, then the fastest: as measured, else as estimated,
        else (where neither is known) those that send least.
        """
        too_big = (self.excess_bytes() or 0) > 0
        seconds = self.times.step() if self.step_seconds is None and self.times else None
        known = self.step_seconds if self.step_seconds is not None else seconds
        return (
            bool(self.reason),
            too_big,
            float("inf") if known is None else known,
            self.sent_bytes(),
        )

    def to_json(self) -> str:
        """Write the row as one line."""
        return json.dumps(self.record())

    def record(self) -> dict[str, Any]:
        """Return the row as plain values, the roofline's times by name."""
        return dataclasses.asdict(self) | {"times": self.times and self.times._asdict()}


def row_of(record: dict[str, Any]) -> Row:
    """Read what ``record`` gave."""
    collectives = [
        Collective(**one | {"axes": tuple(one["axes"])}) for one in record["collectives"]
    ]
    times = record["times"] and Times(**record["times"])
    return Row(**record | {"collectives": collectives, "times": times})
