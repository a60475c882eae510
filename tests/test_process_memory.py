"""Freed memory stays with the process, whichever thread took it, and may be in huge pages."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import processes

PROGRAM = """
import concurrent.futures, ctypes, json, re
from cartesian_moe_jax.process_memory import keep_freed_memory
kept = keep_freed_memory()
libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
def take(_=None):
    block = libc.malloc(100_000_000)
    ctypes.memset(block, 1, 100_000_000)
    libc.free(block)
    return block
def area_of(address):
    for area in re.split(r"\\n(?=[0-9a-f]+-[0-9a-f]+ )", open("/proc/self/smaps").read()):
        start, end = (int(number, 16) for number in area.split()[0].split("-"))
        if start <= address < end:
            resident = int(re.search(r"Rss: +([0-9]+) kB", area)[1])
            return resident, "hg" in area.split("VmFlags:")[1].split()
with concurrent.futures.ThreadPoolExecutor(1) as pool:
    blocks = [take(), *pool.map(take, range(2))]
resident, advised = area_of(blocks[0] + 50_000_000)
print(json.dumps([kept, blocks, resident, advised]))
"""


RESTARTED = """
import os, sys
print("begun", file=sys.stderr)
from cartesian_moe_jax.process_memory import restart_in_huge_pages
restart_in_huge_pages()
print(os.environ["GLIBC_TUNABLES"], sys.argv, file=sys.stderr)
"""

needs_glibc = pytest.mark.skipif(
    not Path("/lib64/ld-linux-x86-64.so.2").exists(), reason="needs glibc"
)
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
needs_huge_pages = pytest.mark.skipif(
    not HUGE_PAGES.exists() or "[never]" in HUGE_PAGES.read_text(),
    reason="needs a kernel that gives huge pages",
)


def run(program, *arguments, tunables=None):
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    if tunables is not None:
        environment["GLIBC_TUNABLES"] = tunables
    command = [sys.executable, "-X", "utf8", "-c", program, *arguments]
    done = subprocess.run(
        command, cwd=processes.ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done


@needs_glibc
def test_what_one_thread_freed_the_next_gets_again():
    kept, blocks, resident, advised = json.loads(run(PROGRAM).stdout)
    assert kept
    # The same 100 MB, but for small things that were put before them meanwhile.
    assert max(blocks) - min(blocks) < 1_000_000
    assert resident > 90_000
    assert advised == HUGE_PAGES.exists()


@needs_glibc
@needs_huge_pages
def test_every_thread_has_huge_pages_after_the_restart():
    restart = PROGRAM.replace("import keep", "import restart_in_huge_pages, keep").replace(
        "kept = ", "restart_in_huge_pages()\nkept = "
    )
    # The thread's block is looked at while it is held.
    held = restart.replace("    libc.free(block)\n", "").replace("blocks[0] +", "blocks[1] +")
    kept, _, resident, advised = json.loads(run(held).stdout)
    assert kept and resident > 90_000 and advised


@needs_glibc
@needs_huge_pages
@pytest.mark.parametrize("others", [None, "glibc.malloc.perturb=0"])
def test_the_program_begins_once_more_with_its_arguments(others):
    begun, again, last = run(RESTARTED, "--a=b c", "", tunables=others).stderr.splitlines()
    asked = "glibc.malloc.hugetlb=1"
    assert begun == again == "begun"
    assert last == f"{others + ':' if others else ''}{asked} ['-c', '--a=b c', '']"


@needs_glibc
def test_who_set_it_is_not_restarted():
    done = run(RESTARTED, tunables="glibc.malloc.hugetlb=0")
    assert done.stderr.splitlines() == ["begun", "glibc.malloc.hugetlb=0 ['-c']"]
