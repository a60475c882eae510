"""Which layouts, meshes and exchanges are compared."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

from cartesian_moe_jax.config import Config
from cartesian_moe_jax.errors import lookup
from cartesian_moe_jax.moe.dispatch import EXCHANGES, exchange_of
from cartesian_moe_jax.parallel.axes import AXES
from cartesian_moe_jax.parallel.layouts import LAYOUTS, layout_of
from cartesian_moe_jax.parallel.mesh import useful_sizes


def candidates(
    config: Config,
    layouts: Sequence[str] = (),
    exchanges: Sequence[str] = (),
    devices: int | None = None,
    cells: int = 1,
) -> list[Config]:
    """Return a config for each case.

    Args:
      config: the preset; what its ``parallel`` section says holds in all cases.
      layouts: names; empty: all, or the preset's own where it has rules of its own.
      exchanges: that layouts which move tokens to experts take in turn; empty: the layout's own.
      devices: search the meshes of so many; None: each layout's usual mesh alone.
      cells: over how many slices or hosts they are spread.

    Raises UserError for a name it does not know.
    """
    own = [config.parallel.layout] if config.parallel.rules else list(LAYOUTS)
    cases = []
    for name in layouts or own:
        lookup(LAYOUTS, name, "--layouts")
        parallel = dataclasses.replace(config.parallel, layout=name)
        for changed in _with_exchanges(dataclasses.replace(config, parallel=parallel), exchanges):
            cases += list(_with_meshes(changed, devices, cells)) if devices else [changed]
    return cases


def _with_exchanges(config: Config, exchanges: Sequence[str]) -> list[Config]:
    for name in exchanges:
        lookup(EXCHANGES, name, "--exchanges")
    if not exchanges or exchange_of(layout_of(config.parallel)).axis is None:
        return [config]
    changed = [dataclasses.replace(config.parallel, exchange=name) for name in exchanges]
    return [dataclasses.replace(config, parallel=parallel) for parallel in changed]


def _with_meshes(config: Config, devices: int, cells: int) -> Iterator[Config]:
    """Give every mesh of the axes that the layout fills; those that the preset sizes stay.

    The last of these axes takes what the others leave. They have more than one device each, or the
    case would be that of a simpler layout. ``data`` joins them with one group for each slice or
    host, so that the layout's own axes stay within.
    """
    fills = layout_of(config.parallel).fills
    useful = useful_sizes(config.model)
    *first, last = [axis for axis in fills if getattr(config.parallel, axis) == 0] or [None]
    if last is None:
        yield config
        return
    choices = {axis: [n for n in _divisors(useful.get(axis, devices)) if n > 1] for axis in first}
    if "data" not in fills and cells > 1:
        choices["data"] = [1, cells]
    fixed = [
        max(getattr(config.parallel, axis), 1) for axis in AXES if axis not in (*choices, last)
    ]
    for sizes in itertools.product(*choices.values()):
        taken = math.prod([*fixed, *sizes])
        rest = devices // taken
        if (
            devices % taken
            or (rest < 2 and len(fills) > 1)
            or (last in useful and useful[last] % rest)
        ):
            continue
        chosen = dict(zip(choices, sizes, strict=True)) | {last: rest}
        parallel = dataclasses.replace(config.parallel, **chosen)
        yield dataclasses.replace(config, parallel=parallel)


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
