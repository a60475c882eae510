"""Kernels that a user's environment leaves out."""

import os

WITHOUT = "CARTESIAN_MOE_WITHOUT"
"""The environment variable: names joined by commas, such as ``hopper`` and ``native``."""


def is_left_out(name: str) -> bool:
    """Say whether the kernels of this name are not to be used."""
    return name in os.environ.get(WITHOUT, "").split(",")
