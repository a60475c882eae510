"""Memory stays flat on a corpus larger than what a process may take."""

import gzip
import json
import subprocess
import sys

import numpy as np
import pytest
from backports import zstd

from tests import processes

PROGRAM = """
import resource, sys
from cartesian_moe_jax.data import PackSettings, pack, parse_source
from cartesian_moe_jax.data.tokenizers import resolve_tokenizer
folder, room, spec, tokenizer = sys.argv[1:]
settings, tokenizer = PackSettings(folder + "/cache"), resolve_tokenizer(tokenizer)
pack(parse_source("text:" + folder + "/small.txt"), tokenizer, settings)
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + int(room), resource.RLIM_INFINITY))
packed = pack(parse_source(spec), tokenizer, settings)
print(sum(s["bytes"] for s in packed.metadata["splits"].values()))
"""

BLOCK = " ".join(map(str, np.random.default_rng(0).integers(0, 10**6, 15_000))) + "\n"
"""About 100 kB of text in a line."""

FORMS = {
    "one text": ("big.txt.zst", BLOCK),
    "one text without line ends": ("big.txt.zst", BLOCK.replace("\n", " ")),
    "short lines": ("big.txt.gz", BLOCK.replace(" ", "\n")),
    "json lines": ("big.jsonl.zst", json.dumps({"text": BLOCK}) + "\n"),
}


def write(path, row, size):
    """Write a compressed file of so many bytes of repeated rows."""
    compressors = {
        ".zst": lambda file: zstd.ZstdFile(file, "w", level=1),
        ".gz": lambda file: gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1),
    }
    with path.open("wb") as file, compressors[path.suffix](file) as stream:
        for _ in range(size // len(row)):
            stream.write(row.encode())
    return size // len(row)


def pack_under_a_limit(folder, spec, room, tokenizer="bytes"):
    """Return the bytes of text that a process could pack with `room` bytes more memory."""
    (folder / "small.txt").write_text("a small text\n" * 1000)
    command = [sys.executable, "-c", PROGRAM, folder, room, spec, tokenizer]
    done = subprocess.run(
        [str(part) for part in command],
        cwd=processes.ROOT,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout)


@pytest.mark.long
@pytest.mark.parametrize("form", FORMS)
def test_a_corpus_larger_than_the_memory_that_it_may_take(tmp_path, form):
    name, row = FORMS[form]
    rows = write(tmp_path / name, row, 2 * 10**9)
    packed = pack_under_a_limit(tmp_path, f"text:{tmp_path}/{name}", room=600 * 10**6)
    assert packed == pytest.approx(rows * len(row), rel=0.05)
