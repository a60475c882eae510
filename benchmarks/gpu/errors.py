"""How far results may be from exact ones."""

from typing import Any

from cartesian_moe_jax.kernels.relative_error import Error

TOLERANCES = {
    ("bfloat16", "bfloat16"): 1e-2,
    ("bfloat16", "float32"): 1e-3,
    ("float32", "float32"): 1e-4,
}
"""By the dtypes of operands and result, of the worst row or expert.

Rounding once to bfloat16 is up to 0.002, and foreign kernels round twice; sums in float32 of
thousands of exact products are off by 1e-5; TensorFloat-32, which nobody asked for, by 5e-4.
"""
PASS, FAIL, NONE = "PASS", "FAIL", "none"
"""NONE: a foreign kernel does not compute this."""
IN_A_ROW = 3.0
"""Times the tolerance: what several computations, each within it, may be off by in a row."""


def verdict(error: Error, tolerance: float) -> dict[str, Any]:
    """What a measurement says of an error."""
    result = PASS if error.worst <= tolerance else FAIL
    return {**error._asdict(), "tolerance": tolerance, "result": result}
