"""Do the Hopper kernels end, and are they right? If not, the parts that follow go without them.

They wait for copies and for one another, so a fault in them may stop a GPU, not only be wrong.
"""

from benchmarks.gpu.context import Context
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.kernels.by_leg import HOPPER, available
from cartesian_moe_jax.kernels.leg_trials import feed_forward_legs, operations
from cartesian_moe_jax.kernels.tuning import described, measure


def run(context: Context) -> None:
    """Run every block of every leg at one shape, beside Triton's default.

    Raises UserError if one of the Hopper kernels fails or is wrong.
    """
    sizes, record = context.sizes, context.record
    if HOPPER not in available():
        record.note("this is no Hopper GPU, or they are left out by CARTESIAN_MOE_WITHOUT")
        return
    failed = []
    for shape in feed_forward_legs(*sizes.checked[0], sizes.dtype):
        timings, failures = measure(shape, (HOPPER,))
        for timing in timings:
            rates = context.rate(operations(shape), timing.ms)
            record.add(**shape._asdict(), by=described(timing.choice), ms=timing.ms, **rates)
        failed += [failure.line() for failure in failures]
    for line in failed:
        record.note(line)
    if failed:
        raise UserError(f"{len(failed)} kernels are wrong or do not run: {failed[0]}")
