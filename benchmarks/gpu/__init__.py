"""All that is to be known of one NVIDIA GPU: correctness, peaks, timings, in one page.

    python -m benchmarks gpu runs/gpu

Each part is a process of its own with a time limit; what it has measured is in its JSON file at
once, so nothing that happens to one part loses what is known already.
"""

from benchmarks.gpu.driver import main

__all__ = ["main"]
