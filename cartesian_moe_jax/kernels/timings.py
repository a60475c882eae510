"""What was measured of grouped matmuls, by kind of GPU: what the fastest choice is read from."""

import functools
import json
import math
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any, NamedTuple

from cartesian_moe_jax.cache import cache_folder
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.kernels.blocks import Block, LegShape
from cartesian_moe_jax.paths import AnyPath

FAR = 3.0
"""Beyond a factor of 8, all sizes together, one shape says nothing about another."""
APART = 1.0
"""Nor beyond a factor of 2 in the rows of an expert, which say how high its tiles should be.

With an eighth of the rows in as many experts, tiles that were full are nearly empty.
"""


class Choice(NamedTuple):
    """How a leg is computed."""

    backend: str
    """A name in LEG_BACKENDS."""
    block: Block | None = None
    """None where the backend chooses itself."""


class Timing(NamedTuple):
    """One measurement."""

    shape: LegShape
    choice: Choice
    ms: float


Timings = tuple[Timing, ...]


def file_name(device_kind: str) -> str:
    """The name of the file of a kind of GPU: nvidia_h200.json for NVIDIA H200."""
    return "_".join(device_kind.lower().split()) + ".json"


def users_file(device_kind: str) -> AnyPath:
    """Where `tune` keeps what it measured on this machine."""
    return cache_folder("", "timings") / file_name(device_kind)


@functools.cache
def timings_of(device_kind: str) -> Timings:
    """The user's own measurements, and of other shapes those that come with the package."""
    file = users_file(device_kind)
    own = read(file) if file.is_file() else ()
    known = {timing.shape for timing in own}
    return (*own, *(timing for timing in shipped(device_kind) if timing.shape not in known))


def shipped(device_kind: str) -> Timings:
    """The measurements that come with the package; none of most kinds of GPU."""
    file = resources.files(__package__) / "measured" / file_name(device_kind)
    return parse(file.read_text(), file.name) if file.is_file() else ()


def fastest(
    timings: Timings,
    shape: LegShape,
    backends: Sequence[str],
    fits: Callable[[Choice, LegShape], bool],
) -> Choice | None:
    """The fastest of what can compute `shape`, at the nearest shape measured; None if all are far.

    Shapes with another leg, dtype or number of products are no neighbours.
    """
    usable = [
        timing
        for timing in timings
        if timing.choice.backend in backends
        and fits(timing.choice, shape)
        and _is_near(timing.shape, shape)
    ]
    return min(usable, key=lambda t: (_distance(t.shape, shape), t.ms)).choice if usable else None


def _is_near(a: LegShape, b: LegShape) -> bool:
    loads = math.log2(a.rows / a.experts * b.experts / b.rows)
    return abs(loads) <= APART and _distance(a, b) <= FAR


def _distance(a: LegShape, b: LegShape) -> float:
    """In doublings, summed over the sizes."""
    if (a.leg, a.products, a.dtype) != (b.leg, b.products, b.dtype):
        return math.inf
    sizes = ((a.rows, b.rows), (a.experts, b.experts), (a.inputs, b.inputs), (a.outputs, b.outputs))
    return sum(abs(math.log2(x / y)) for x, y in sizes)


def as_json(timings: Timings) -> str:
    """One measurement a line."""
    return "[\n" + ",\n".join(json.dumps(_plain(timing)) for timing in timings) + "\n]\n"


def _plain(timing: Timing) -> dict[str, Any]:
    block = timing.choice.block
    return {
        **timing.shape._asdict(),
        "backend": timing.choice.backend,
        "block": None if block is None else list(vars(block).values()),
        "ms": timing.ms,
    }


def parse(text: str, name: str) -> Timings:
    """Read what `as_json` wrote. Raises UserError, naming the file, for anything else."""
    try:
        return tuple(_parse_one(entry) for entry in json.loads(text))
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"timings={name!r} is no file of timings ({error!r}): remove it, or run tune again"
        ) from None


def _parse_one(entry: dict[str, Any]) -> Timing:
    block = None if entry["block"] is None else Block(*map(int, entry["block"]))
    shape = LegShape(**{field: entry[field] for field in LegShape._fields})
    return Timing(shape, Choice(entry["backend"], block), float(entry["ms"]))


def read(path: AnyPath) -> Timings:
    """The measurements of one file."""
    return parse(path.read_text(), str(path))
