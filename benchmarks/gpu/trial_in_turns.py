"""Do the Hopper kernels end, and are they right, whose groups take turns at tiles?"""

from benchmarks.gpu import trial
from benchmarks.gpu.context import Context
from cartesian_moe_jax.kernels.by_leg import HOPPER_IN_TURNS


def run(context: Context) -> None:
    """Try them as `trial` tries the others, apart: should they not end, the others still run."""
    trial.try_all(context, HOPPER_IN_TURNS)
