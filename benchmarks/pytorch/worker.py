"""Runs cases in an environment that has PyTorch: one JSON request a line, one answer a line.

{"make": {...}} makes a case, as a ``Wanted`` with its fields, runs it twice, and answers with its
number and its temporary memory, or with an error; {"run": NUMBER} runs it once, or as many "times"
as are asked for, and answers with the seconds of a run; {"forget": 1} drops the cases so far;
{"compute": {...}} runs a layer once on given weights in float32, and answers with the file of its
output; {"train": {...}} does the same with training steps of a model.

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

from benchmarks.pytorch.cartesian import CartesianLayer, Model, Shape
from benchmarks.pytorch.cases import CASES, Run, Wanted
from benchmarks.pytorch.memory import temporary_bytes
from benchmarks.pytorch.training import AdamW, Training

RECORDS = {"shape": Shape, "optimizer": AdamW}
"""Fields of a ``Wanted`` that have fields themselves."""
SHARE = 0.6
"""Of the machine's memory: a case that wants more is an error, not the end of the process."""


def answer(request: dict[str, Any], made: list[Run]) -> dict[str, Any]:
    """Do what is asked."""
    if "run" in request:
        return {"seconds": seconds_of(made[request["run"]], request.get("times", 1))}
    if "compute" in request:
        return compute(**request["compute"])
    if "train" in request:
        return train(**request["train"])
    if "forget" in request:
        made.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return {}
    fields = request["make"]
    typed = {name: of(**fields[name]) for name, of in RECORDS.items() if name in fields}
    wanted = Wanted(**{**fields, **typed})
    case = CASES[wanted.kind](wanted)
    seconds_of(case, 1)
    temporary = temporary_bytes(case)
    made.append(case)
    return {"number": len(made) - 1, "temporary_bytes": temporary}


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


def train(
    experts: str, shape: dict[str, int], optimizer: dict[str, float], steps: int, file: str
) -> dict[str, Any]:
    """Train the model on the weights and the tokens, [batch, seq + 1], of a file.

    What it leaves in a file: logits before, losses of all steps, and weights after, by name.
    """
    arrays = {name: torch.from_numpy(array) for name, array in numpy.load(file).items()}
    tokens = arrays.pop("tokens").to(torch.get_default_device(), torch.int64)
    model = Model(Shape(**shape), experts).float()
    model.load_state_dict(arrays)
    with torch.no_grad():
        logits = model.logits(tokens[:, :-1]).cpu().numpy()
    training = Training(model, AdamW(**optimizer))
    losses = [training.step(tokens) for _ in range(steps)]
    after = {name: weight.cpu().numpy() for name, weight in model.state_dict().items()}
    numpy.savez(f"{file}.after.npz", logits=logits, losses=losses, **after)
    return {"file": f"{file}.after.npz"}


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
