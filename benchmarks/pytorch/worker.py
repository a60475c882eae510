"""Runs cases in an environment that has PyTorch: one JSON request a line, one answer a line.

{"make": {...}} makes a case, as a ``Wanted`` with its fields, runs it once, and answers with its
number, or with an error; {"run": NUMBER} runs it once, or as many "times" as are asked for, and
answers with the seconds of a run; {"forget": 1} drops the cases so far; {"compute": {...}} runs a
layer once on given weights in float32, and answers with the file of its output.

Its arguments are the device, cpu or cuda, and the dtype of weights and computations.
"""

import json
import os
import resource
import sys
import time
from typing import Any

import numpy
import torch

from benchmarks.pytorch.cartesian import CartesianLayer, Shape
from benchmarks.pytorch.cases import CASES, Run, Wanted

SHARE = 0.6
"""Of the machine's memory: a case that wants more is an error, not the end of the process."""


def answer(request: dict[str, Any], made: list[Run]) -> dict[str, Any]:
    """Do what is asked."""
    if "run" in request:
        return {"seconds": seconds_of(made[request["run"]], request.get("times", 1))}
    if "compute" in request:
        return compute(**request["compute"])
    if "forget" in request:
        made.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return {}
    fields = request["make"]
    wanted = Wanted(**{**fields, "shape": Shape(**fields["shape"])})
    case = CASES[wanted.kind](wanted)
    seconds_of(case, 1)
    made.append(case)
    return {"number": len(made) - 1}


def seconds_of(case: Run, times: int) -> float:
    """Return how long a run takes, of several in a row; waits for what a GPU still does."""
    wait = torch.cuda.synchronize if torch.get_default_device().type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    for _ in range(times):
        case()
    wait()
    return (time.perf_counter() - start) / times


def compute(experts: str, shape: dict[str, int], file: str) -> dict[str, Any]:
    """Run the CartesianMoE layer on the weights and the input x, [tokens, d_model], of a file."""
    arrays = {name: torch.from_numpy(array) for name, array in numpy.load(file).items()}
    x = arrays.pop("x").to(torch.get_default_device())
    layer = CartesianLayer(Shape(**shape), experts).float()
    layer.load_state_dict(arrays)
    with torch.no_grad():
        numpy.save(f"{file}.npy", layer(x).cpu().numpy())
    return {"file": f"{file}.npy"}


def limit_memory() -> None:
    """Let this process have no more than its share."""
    limit = int(SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def set_up(device: str, dtype: str) -> dict[str, Any]:
    """Let all that is made lie on the device, in the dtype; return what is said at first."""
    torch.manual_seed(0)
    torch.set_default_device(device)
    torch.set_default_dtype(getattr(torch, dtype))
    name = device
    if device == "cuda":
        name = torch.cuda.get_device_name()
    else:
        limit_memory()  # CUDA maps more than there is
    return {"torch": torch.__version__, "threads": torch.get_num_threads(), "device": name}


def main() -> None:
    """Answer requests until there are no more."""
    about = set_up(*sys.argv[1:])
    made: list[Run] = []
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        try:
            reply = answer(json.loads(line), made)
        except Exception as error:  # what one case cannot do must not end the others
            reply = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
