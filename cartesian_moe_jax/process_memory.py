"""How the process gets its memory: on CPU, where every step allocates what the last freed."""

import ctypes
import mmap
import os
import sys
from pathlib import Path

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
_NEVER = -1  # malloc reads it as the largest size there is
_HEAP = 2**26  # what an arena beside the first takes at a time
_TUNABLES, _HUGE_PAGES = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
_FIRST_GLIBC = (2, 35)
_KERNEL_SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def restart_in_huge_pages() -> None:
    """Replace the process by the same program with malloc in huge pages, where that can be had.

    glibc reads this setting only when a process begins. Call it before costly imports; the second
    time it does nothing. With it, threads may have arenas of their own and need not wait for one
    another: a step of small products is a fifth faster than after `keep_freed_memory` alone.
    """
    others = os.environ.get(_TUNABLES, "")
    if _HUGE_PAGES in others or not (sys.executable and _huge_pages_can_be_asked_for()):
        return
    asked = ":".join(filter(None, (others, f"{_HUGE_PAGES}=1")))
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(
        sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, _TUNABLES: asked}
    )


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
    settings = {_MMAP_MAX: 0, _TRIM_THRESHOLD: _NEVER}
    # Arenas beside the first get huge pages only from the setting that a process begins with.
    settings |= {_TOP_PAD: _HEAP} if _in_huge_pages() else {_ARENA_MAX: 1}
    kept = all(mallopt(*setting) for setting in settings.items())
    if kept and not _in_huge_pages():
        _ask_for_huge_pages(libc, os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE // 2)
    return kept


def _in_huge_pages() -> bool:
    return f"{_HUGE_PAGES}=1" in os.environ.get(_TUNABLES, "")


def _huge_pages_can_be_asked_for() -> bool:
    """Say whether glibc is new enough, and whether the kernel gives huge pages to who asks."""
    try:
        name, version = os.confstr("CS_GNU_LIBC_VERSION").split()
        kernel = _KERNEL_SETTING.read_text()
    except (AttributeError, OSError, ValueError):
        return False
    return (
        name == "glibc"
        and tuple(map(int, version.split("."))) >= _FIRST_GLIBC
        and "[never]" not in kernel
    )


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
