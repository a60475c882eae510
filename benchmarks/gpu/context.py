"""What every part is given, and the model that several of them measure."""

import dataclasses
import math
from pathlib import Path
from typing import NamedTuple

import jax

from benchmarks.gpu.record import Record, read
from benchmarks.gpu.sizes import Sizes
from cartesian_moe_jax import config as schema
from cartesian_moe_jax.config import Config
from cartesian_moe_jax.models.sizes import size_fields


class Context(NamedTuple):
    """Where a part finds its sizes and leaves its results."""

    sizes: Sizes
    record: Record
    folder: Path
    python: str
    """That has PyTorch."""

    def peak_tflops(self) -> float:
        """The rate of the square product that the part `peaks` measured; NaN without."""
        rates = [
            measurement["tflops"]
            for measurement in read(self.folder / "peaks.json").get("measurements", [])
            if measurement["what"] == "matmul"
        ]
        if not rates:
            self.record.note("no share of the peak: the part `peaks` has not measured it")
        return rates[0] if rates else math.nan

    def rate(self, operations: float, ms: float) -> dict[str, float]:
        """TFLOP/s, and their share of the measured peak, for a measurement."""
        tflops = operations / ms / 1e9
        share = tflops / self.peak_tflops()
        return {"tflops": tflops} | ({} if math.isnan(share) else {"peak_share": share})


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
