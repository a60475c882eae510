"""The parts in the order of importance, each with its limit; and one of them as a process.

python -m benchmarks.gpu.parts NAME FOLDER [--rehearse] [--python=FILE]
"""

import argparse
import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

WRONG_INPUT = 2
NO_GPU = "jax finds no GPU"


class Part(NamedTuple):
    """What is measured, and how long that may take."""

    about: str
    seconds: float
    """At the most, unless time is to spare."""
    least: float = 0.0
    """That the parts before it leave to it: an estimate, by what compiling took on an H200."""
    resumes: bool = False
    """Whether it goes on where it was stopped, in what time the others leave."""
    environment: Mapping[str, str] = MappingProxyType({})
    tries: str = ""
    """The kernels of a leg that the parts behind it go without, if they fail in it."""


PARTS: Mapping[str, Part] = MappingProxyType(
    {
        "trial": Part("whether the Hopper kernels end, and are right", 45, 45, tries="hopper"),
        "trial_in_turns": Part("the same of those in turns", 25, 15, tries="hopper_in_turns"),
        "parity": Part("what kernels compute, against float64", 80, 40),
        "peaks": Part("the machine's own rates", 25, 20),
        "legs": Part("each leg of grouped matmuls by every choice", 60, 30, resumes=True),
        "layer": Part("experts and whole layers, forward and backward", 110, 55),
        "step": Part("a training step", 100, 95),
        "pytorch": Part(
            "layers, forward and backward and in decoding, against PyTorch's",
            95,
            80,
            # PyTorch needs its share of the same memory.
            environment=MappingProxyType({"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}),
        ),
        "decode": Part("a token of text from a model", 50, 45),
    }
)


def run_part(name: str, folder: Path, python: str, *, rehearse: bool) -> None:
    """Run a part in this process. Raises UserError where there is no GPU and it is no rehearsal."""
    import jax

    from benchmarks.gpu.conditions import conditions
    from benchmarks.gpu.context import Context
    from benchmarks.gpu.record import Record
    from benchmarks.gpu.sizes import FULL, REHEARSAL
    from cartesian_moe_jax.errors import UserError

    if not rehearse and jax.default_backend() != "gpu":
        raise UserError(f"{NO_GPU} but a {jax.default_backend()}; --rehearse runs there")
    about = {"device": jax.devices()[0].device_kind, **conditions(rehearsal=rehearse)}
    record = Record(folder / f"{name}.json", resumed=PARTS[name].resumes, **about)
    sizes = REHEARSAL if rehearse else FULL
    importlib.import_module(f"benchmarks.gpu.{name}").run(Context(sizes, record, folder, python))


def main() -> None:
    """Run one part."""
    from cartesian_moe_jax.errors import UserError

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=PARTS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--python", default=sys.executable)
    flags = parser.parse_args()
    try:
        run_part(flags.name, flags.folder, flags.python, rehearse=flags.rehearse)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(WRONG_INPUT)


if __name__ == "__main__":
    main()
