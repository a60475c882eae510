"""Sizes of arrays as HLO writes them: ``bf16[8,128]{1,0}``, or tuples of such."""

import math
import re

_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,<=]*)\]")


def bytes_of(shape: str) -> int | float:
    """Return the bytes of an array, or of all arrays of a tuple; padding in memory not counted."""
    return sum(_bits(found) for found in _ARRAY.finditer(shape)) / 8


def _bits(found: re.Match[str]) -> int:
    sizes = [int(size) for size in re.findall(r"\d+", found[3])]
    return math.prod(sizes) * (8 if found[1] == "pred" else int(found[2]))
