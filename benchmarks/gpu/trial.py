"""Do the Hopper kernels end, and are they right? If not, the parts that follow go without them.

They wait for copies and for one another, so a fault in them may stop a GPU, not only be wrong.
"""

from collections.abc import Sequence

from benchmarks.gpu.context import Context
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.kernels.blocks import LegShape
from cartesian_moe_jax.kernels.by_leg import HOPPER, available
from cartesian_moe_jax.kernels.leg_trials import feed_forward_legs, operations
from cartesian_moe_jax.kernels.tuning import described, measure

ENOUGH = (("forward", 2), ("to_rows", 1), ("to_rows", 2), ("to_weights", 1))
"""Legs and products with all that these kernels do; one product forward is less than two."""


def legs(context: Context) -> Sequence[LegShape]:
    """One leg of each kind."""
    first: dict[tuple[str, int], LegShape] = {}
    for shape in feed_forward_legs(*context.sizes.checked[0], context.sizes.dtype):
        first.setdefault((shape.leg, shape.products), shape)
    return [first[kind] for kind in ENOUGH]


def run(context: Context) -> None:
    """Try those whose groups share tiles."""
    try_all(context, HOPPER)


def try_all(context: Context, backend: str) -> None:
    """Run every block of those legs at one shape.

    Raises UserError if one of the backend's kernels fails or is wrong.
    """
    record = context.record
    if backend not in available():
        record.note("this is no Hopper GPU, or they are left out by CARTESIAN_MOE_WITHOUT")
        return
    failed = []
    for shape in legs(context):
        timings, failures = measure(shape, (backend,))
        for timing in timings:
            rates = context.rate(operations(shape), timing.ms)
            record.add(**shape._asdict(), by=described(timing.choice), ms=timing.ms, **rates)
        failed += [failure.line() for failure in failures]
    for line in failed:
        record.note(line)
    if failed:
        raise UserError(f"{len(failed)} kernels are wrong or do not run: {failed[0]}")
