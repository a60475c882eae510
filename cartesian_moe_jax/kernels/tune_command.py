"""python -m cartesian_moe_jax tune: measures grouped matmuls on the GPU at hand."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
from tqdm import tqdm

from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.kernels import timings as kept
from cartesian_moe_jax.kernels.blocks import LegShape
from cartesian_moe_jax.kernels.by_leg import available
from cartesian_moe_jax.kernels.leg_trials import feed_forward_legs
from cartesian_moe_jax.kernels.timings import Timing, Timings
from cartesian_moe_jax.kernels.tuning import measure, merged, one_line, table
from cartesian_moe_jax.paths import AnyPath, write_atomically
from cartesian_moe_jax.platform import device_kind, target_platform


class Grid(NamedTuple):
    """The experts whose legs are measured: all combinations."""

    rows: tuple[int, ...] = (32768,)
    """Pairs of tokens and experts on one device."""
    experts: tuple[int, ...] = (32, 64, 256)
    """On one device."""
    d_model: tuple[int, ...] = (1024, 2048)
    d_expert: tuple[int, ...] = (512, 1024, 2048)

    def shapes(self) -> Iterator[LegShape]:
        """All legs of all combinations, in the compute dtype of GPUs."""
        for rows in self.rows:
            for experts in self.experts:
                for d_model in self.d_model:
                    for d_expert in self.d_expert:
                        yield from feed_forward_legs(rows, experts, d_model, d_expert, "bfloat16")


def run_tune(grid: Grid, to: AnyPath | None) -> None:
    """Measure the grid, keep it in `to` (the user's own file without), print the fastest.

    What is measured is kept after every shape, so that it survives a stop. Raises UserError
    where there is no GPU.
    """
    if target_platform() != "gpu":
        raise UserError(f"tune measures kernels for GPUs, and this is a {jax.default_backend()}")
    path = to or kept.users_file(device_kind())
    if to is None:
        path.parent.mkdir(parents=True, exist_ok=True)
    old = kept.read(path) if path.is_file() else ()
    new: Timings = ()
    try:
        for shape in tqdm(list(grid.shapes()), unit="leg", desc=device_kind()):
            found, failed = _measured(shape)
            new = (*new, *found)
            for line in failed:
                tqdm.write(f"{' '.join(map(str, shape))}: {line}")
            write_atomically(path, kept.as_json(merged(old, new)))
    finally:
        if new:
            print(table(new))
            print(f"kept in {path}: used from now on" if to is None else f"kept in {path}")


def _measured(shape: LegShape) -> tuple[list[Timing], list[str]]:
    """Measure a shape; also what failed, and why."""
    try:
        found, failures = measure(shape, available())
    except jax.errors.JaxRuntimeError as error:  # its operands do not fit
        return [], [one_line(error)]
    return found, [failure.line() for failure in failures]
