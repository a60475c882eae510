"""What one run of a case takes beside its arguments and results, in bytes.

It compares with XLA's ``temp_size_in_bytes``: for both, arguments + results + temporary is what
must be there at the moment that needs most. Counted is the peak of what PyTorch's allocator has
given out during a run, less what is left of it when the run has returned. Left are the results: of
a layer, as of ours, the output and the gradients of input and weights; of a training step nothing,
since it moves its weights in place and drops its gradients, as ours does. The place of a result
that is not there yet may be used until then, by XLA too: where results are large, the peak is
hardly above them. Neither side counts what a library's kernels allocate by themselves, nor what an
allocator keeps unused.
"""

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

Run = Callable[[], Any]


def temporary_bytes(run: Run) -> int:
    """Run it once more, untimed; it has run before, so the optimizer's state is there."""
    return BY_DEVICE[torch.get_default_device().type](run)


def of_changes(changes: Iterable[int]) -> int:
    """Return the peak above the end of a series of allocations, and of releases (negative)."""
    totals = list(accumulate(changes, initial=0))
    return max(totals) - totals[-1]


def _on_cpu(run: Run) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        held = run()
    del held  # not before the profile's end: results are no temporary memory
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profiled.export_chrome_trace(str(file))
        events = json.loads(file.read_text())["traceEvents"]
    return of_changes(_changes(events))


def _changes(events: Iterable[dict[str, Any]]) -> Iterator[int]:
    found = (event for event in events if event.get("name") == "[memory]")
    for event in sorted(found, key=lambda event: event["ts"]):
        yield event["args"]["Bytes"]


def _on_cuda(run: Run) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    held = run()
    torch.cuda.synchronize()
    found = torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated()
    del held  # not before the reading: results are no temporary memory
    return found


BY_DEVICE: dict[str, Callable[[Run], int]] = {"cpu": _on_cpu, "cuda": _on_cuda}
