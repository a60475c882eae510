"""How the process gets its memory: on CPU, where every step allocates what the last freed."""

import ctypes
import mmap
import os
import sys

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_NEVER = -1  # malloc reads it as the largest size there is


def keep_freed_memory() -> bool:
    """Tell glibc's malloc to reuse freed memory, in huge pages; False where there is no glibc.

    By default large arrays are mapped and unmapped at each use, and the kernel clears every page
    anew. The process's memory then stays at its highest use. Call it before large allocations.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL("libc.so.6", use_errno=True)
        mallopt = libc.mallopt
    except (OSError, AttributeError):
        return False
    settings = {_MMAP_MAX: 0, _TRIM_THRESHOLD: _NEVER, _ARENA_MAX: 1}
    kept = all(mallopt(*setting) for setting in settings.items())
    if kept:
        _ask_for_huge_pages(libc, os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE // 2)
    return kept


def _ask_for_huge_pages(libc: ctypes.CDLL, size: int) -> None:
    """Advise huge pages for the next ``size`` bytes that malloc gives; nothing is taken yet.

    The block is malloc's again when it is freed, and since that returns nothing to the kernel,
    the advice stays. Where it cannot be had, pages are as small as before.
    """
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    block = libc.malloc(size)
    if block is None:
        return
    start = -(-block // mmap.PAGESIZE) * mmap.PAGESIZE
    libc.madvise(start, size - (start - block), mmap.MADV_HUGEPAGE)
    libc.free(block)
