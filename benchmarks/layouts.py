"""The training step of each layout on virtual CPU devices, against that of `data` on as many.

    python -m benchmarks.layouts --devices=8

The devices share the cores of this machine, so that nothing gets faster: a ratio says what a layout
and its exchange waste (copies, buffers, synchronisation), not what it gains. The tensor axis has
two devices, the expert axis four (two beside the others), what is left is data or fsdp.
"""

import argparse
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import jax

from benchmarks.step import step_case
from benchmarks.timing import format_table, time_cases
from cartesian_moe_jax.config import Config
from cartesian_moe_jax.models.vocabulary import with_vocabulary
from configs.flags import config_of

CASES: Mapping[str, Mapping[str, Any]] = {
    "data": {"layout": "data"},
    "fsdp": {"layout": "fsdp"},
    "expert, gather": {"layout": "expert", "expert": 4},
    "expert, all_to_all": {"layout": "expert", "expert": 4, "exchange": "all_to_all"},
    "expert, local": {"layout": "expert", "expert": 4, "exchange": "local"},
    "expert_fsdp, gather": {"layout": "expert_fsdp", "expert": 4, "fsdp": 2},
    "expert_fsdp, all_to_all": {
        "layout": "expert_fsdp",
        "expert": 4,
        "fsdp": 2,
        "exchange": "all_to_all",
    },
    "tensor": {"layout": "tensor", "tensor": 2},
    "expert_tensor, gather": {"layout": "expert_tensor", "tensor": 2, "expert": 2},
}
HEADER = ("layout", "ms", "quartiles", "ratio", "temporary MB", "compile s")
PRESET = "--config=configs/study.py:cpu,cartesian"


def on_layout(config: Config, fields: Mapping[str, Any]) -> Config:
    """Return the config with these fields of ``config.parallel``."""
    return dataclasses.replace(config, parallel=dataclasses.replace(config.parallel, **fields))


def main() -> None:
    """Measure, print, and write the JSON file if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=8, help="virtual ones")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--vocab_size", type=int, default=2048)
    parser.add_argument("--json", help="file to write the measurements to")
    flags, rest = parser.parse_known_args()
    jax.config.update("jax_num_cpu_devices", flags.devices)
    config = with_vocabulary(config_of(rest or [PRESET]), flags.vocab_size)
    cases = [step_case(name, on_layout(config, fields))[0] for name, fields in CASES.items()]
    timings = time_cases(cases, flags.rounds)
    base = timings[0].median
    rows = [
        (
            timing.case.name,
            f"{timing.median:.0f}",
            timing.quartiles(),
            f"{timing.median / base:.2f}",
            f"{timing.case.temporary_bytes / 1e6:.0f}",
            f"{timing.case.compile_seconds:.1f}",
        )
        for timing in timings
    ]
    print(format_table(HEADER, rows))
    if flags.json:
        records = [{**t.record(), "ratio_to_data": t.median / base} for t in timings]
        with open(flags.json, "w") as file:
            json.dump({"devices": flags.devices, "measurements": records}, file, indent=1)


if __name__ == "__main__":
    main()
