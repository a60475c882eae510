"""What every part is given, and the model that several of them measure."""

import dataclasses
import math
from pathlib import Path
from typing import NamedTuple

import jax

from benchmarks.gpu.rates import Rates, read_rates
from benchmarks.gpu.record import Record
from benchmarks.gpu.sizes import Sizes
from cartesian_moe_jax import config as schema
from cartesian_moe_jax.config import Config
from cartesian_moe_jax.kernels.blocks import LegShape
from cartesian_moe_jax.kernels.leg_trials import SERIES, operations
from cartesian_moe_jax.models.sizes import size_fields


class Context(NamedTuple):
    """Where a part finds its sizes and leaves its results."""

    sizes: Sizes
    record: Record
    folder: Path
    python: str
    """That has PyTorch."""

    def rates(self) -> Rates:
        """What the part `peaks` has measured of this machine."""
        return read_rates(self.folder, self.record.content)

    def rate(self, operations: float, ms: float, series: float | None = None) -> dict[str, float]:
        """TFLOP/s, and their share of the measured peak, for a measurement.

        ``series``: the seconds that each took of the series that were timed, if not the usual ones.
        """
        tflops = operations / ms / 1e9
        share = tflops / self.rates().peak(series or self.sizes.seconds)
        if math.isnan(share):
            self.record.note("no share of the peak: the part `peaks` has not measured this device")
        return {"tflops": tflops} | ({} if math.isnan(share) else {"peak_share": share})

    def rate_of_leg(self, shape: LegShape, ms: float) -> dict[str, float]:
        """The same of a leg, with what peak and memory allow it."""
        bound = self.rates().bound(shape, SERIES)
        more = {} if math.isnan(bound) else {"bound_tflops": bound}
        return self.rate(operations(shape), ms, SERIES) | more


def memory_limit() -> float:
    """The bytes that arrays may take on the device; infinite where it does not say."""
    return (jax.devices()[0].memory_stats() or {}).get("bytes_limit", math.inf)


def model_config(sizes: Sizes, batch: int, seq_len: int) -> Config:
    """The model that is trained and sampled, with the training recipe of all presets."""
    values = dataclasses.asdict(Config())
    fields = size_fields(*sizes.model)
    moe = values["model"]["moe"] | fields.pop("moe")
    if sizes.shrunk:
        moe |= {"num_experts": 4, "d_expert": 8}
    own = {"moe": moe, "compute_dtype": sizes.dtype, "unroll": 0}
    values["model"] |= fields | sizes.shrunk | own
    values["data"]["seq_len"] = seq_len
    values["training"]["batch_size"] = batch
    values["parallel"]["data"] = 1
    return schema.read(values)
