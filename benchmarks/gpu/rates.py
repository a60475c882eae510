"""The machine's own rates, measured by the part `peaks`: what the others are relative to."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gpu.record import read
from cartesian_moe_jax.kernels.blocks import LegShape
from cartesian_moe_jax.kernels.leg_trials import moved_bytes, operations


class Rates(NamedTuple):
    """Of the square product and of a copy of memory."""

    tflops: Mapping[float, float]
    """By the seconds of a series of runs: a GPU that works for longer runs slower."""
    gigabytes_per_s: float

    def peak(self, seconds: float) -> float:
        """TFLOP/s of the square product, in the series nearest to that length; NaN without."""
        if not self.tflops:
            return math.nan
        return self.tflops[min(self.tflops, key=lambda known: abs(math.log(known / seconds)))]

    def bound(self, shape: LegShape, seconds: float) -> float:
        """TFLOP/s that a leg reaches if it multiplies at the peak, or moves all of its operands
        and results once at the rate of the copy, whichever takes longer; NaN without."""
        by_memory = operations(shape) / moved_bytes(shape) * self.gigabytes_per_s / 1e3
        peak = self.peak(seconds)
        return math.nan if math.isnan(peak + by_memory) else min(peak, by_memory)


def read_rates(folder: Path, here: Mapping[str, Any]) -> Rates:
    """What was measured on the device that ``here`` names, which says whether in rehearsal."""
    found = read(folder / "peaks.json")
    same = all(found.get(name) == here.get(name) for name in ("device", "rehearsal"))
    measured = found.get("measurements", []) if same else []
    tflops = {m["ms_per_series"] / 1e3: m["tflops"] for m in measured if m["what"] == "matmul"}
    copies = [m["gigabytes_per_s"] for m in measured if m["what"] == "copy"]
    return Rates(tflops, copies[0] if copies else math.nan)
