"""Freed memory stays with the process, whichever thread took it, and may be in huge pages."""

import json
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


@pytest.mark.skipif(not Path("/lib64/ld-linux-x86-64.so.2").exists(), reason="needs glibc")
def test_what_one_thread_freed_the_next_gets_again():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=processes.ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    kept, blocks, resident, advised = json.loads(done.stdout)
    assert kept
    assert len(set(blocks)) == 1
    assert resident > 90_000
    assert advised == Path("/sys/kernel/mm/transparent_hugepage").exists()
