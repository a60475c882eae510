"""Freed memory is kept by the process: on CPU, where every step allocates what the last freed."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tell glibc's malloc to reuse freed memory, not return it; False where there is no glibc.

    By default large arrays are mapped and unmapped at each use, and the kernel clears every page
    anew. The process's memory then stays at its highest use. Call it before large allocations.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))
