"""Runs cases in an environment that has PyTorch: one JSON request a line, one answer a line.

{"make": {...}} makes a case, as a ``Wanted`` with its fields, runs it once, and answers with its
number, or with an error; {"run": NUMBER} runs it once and answers with the seconds; {"forget": 1}
drops the cases so far; {"compute": {...}} runs a layer once on given weights, and answers with the
file of its output.
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
        start = time.perf_counter()
        made[request["run"]]()
        return {"seconds": time.perf_counter() - start}
    if "compute" in request:
        return compute(**request["compute"])
    if "forget" in request:
        made.clear()
        return {}
    fields = request["make"]
    wanted = Wanted(**{**fields, "shape": Shape(**fields["shape"])})
    case = CASES[wanted.kind](wanted)
    case()
    made.append(case)
    return {"number": len(made) - 1}


def compute(experts: str, shape: dict[str, int], file: str) -> dict[str, Any]:
    """Run the CartesianMoE layer on the weights and the input x, [tokens, d_model], of a file."""
    arrays = {name: torch.from_numpy(array) for name, array in numpy.load(file).items()}
    x = arrays.pop("x")
    layer = CartesianLayer(Shape(**shape), experts)
    layer.load_state_dict(arrays)
    with torch.no_grad():
        numpy.save(f"{file}.npy", layer(x).numpy())
    return {"file": f"{file}.npy"}


def limit_memory() -> None:
    """Let this process have no more than its share."""
    limit = int(SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def main() -> None:
    """Answer requests until there are no more."""
    torch.manual_seed(0)
    limit_memory()
    made: list[Run] = []
    print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads()}), flush=True)
    for line in sys.stdin:
        try:
            reply = answer(json.loads(line), made)
        except Exception as error:  # what one case cannot do must not end the others
            reply = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
