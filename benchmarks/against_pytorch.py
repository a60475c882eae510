"""Our layers and training step against PyTorch's at equal shapes, forward and backward.

    python3.11 -m venv .venv-bench && .venv-bench/bin/pip install torch transformers
    python -m benchmarks against_pytorch --python=.venv-bench/bin/python [--what=step]

PyTorch runs in a process of its own and waits while ours run, and the other way round: all cases
take turns. Each MoE block of transformers is timed with every experts implementation it has; so
is a CartesianMoE written in plain PyTorch (benchmarks/pytorch/), which must compute and, for
the step, learn what ours does (parity.py, step_parity.py). Ratios are PyTorch / ours: above
1, ours is faster. Nothing is dropped in any of them. Losses that balance the load and statistics of
the routing are computed in ours alone. Where the config has our step compute layers again in the
backward pass, PyTorch's is timed both without that and with it.

Temporary memory is what must be there beside arguments and results (benchmarks/pytorch/memory.py).
Gradients are results of a layer; of a step they are temporary.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import jax
from flax import nnx

from benchmarks.layer import forward_and_backward
from benchmarks.parity import check
from benchmarks.step import step_case
from benchmarks.step_parity import check as check_step
from benchmarks.step_parity import optimizer_of, shape_of
from benchmarks.timing import (
    Case,
    Timing,
    compile_case,
    format_table,
    peak_case,
    peak_line,
    time_cases,
)
from cartesian_moe_jax import CartesianProductLayer, SubLayerShape
from cartesian_moe_jax.config import Config
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.models.in_use import narrowed
from cartesian_moe_jax.models.vocabulary import with_vocabulary
from cartesian_moe_jax.process_memory import keep_freed_memory
from cartesian_moe_jax.training.memory import take_memory

ROOT = Path(__file__).parents[1]
HEADER = ("case", "experts", "ms", "quartiles", "PyTorch / ours", "of peak", "temporary MB")
QUIET = {"KINETO_LOG_LEVEL": "6", "TORCH_CPP_LOG_LEVEL": "ERROR"}
"""Else PyTorch's profiler prints lines for its developers, and warns of the gradients of the run
before, which are released while it looks."""
PAUSE = 0.05
"""Seconds before each run: threads of the other library that still spin are asleep by then."""
OWN_FORMS, BLOCK_FORMS = ("loop", "grouped"), ("eager", "grouped_mm", "batched_mm")
BLOCKS = {"mixtral": False, "qwen2_moe": True, "deepseek_v3": True}
"""Blocks of transformers, and whether they have a shared expert."""


class Group(NamedTuple):
    """Cases that compute alike: ours first."""

    label: str
    cases: list[Case]
    follows: bool = False
    """Whether a case runs once more right before it is timed, as a step follows a step."""


class Made(NamedTuple):
    """A case in PyTorch's process."""

    number: int
    temporary_bytes: int


class PyTorch:
    """A process that runs PyTorch's cases."""

    def __init__(self, python: str, device: str = "cpu", dtype: str = "float32"):
        command = [python, "-m", "benchmarks.pytorch.worker", device, dtype]
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT, env=os.environ | QUIET
            )
        except OSError as error:
            raise UserError(f"--python={python} cannot be run: {error.strerror}") from error
        self.about = self._read()

    def case(self, name: str, **wanted: Any) -> Case | None:
        """Make a case; None, and a line that says why, where PyTorch cannot."""
        made = self.make(**wanted)
        if isinstance(made, str):
            print(f"{name} is left out: {made}")
            return None
        return Case(name, lambda: self._ask({"run": made.number}), made.temporary_bytes, 0.0)

    def make(self, **wanted: Any) -> Made | str:
        """Make a case, or say why PyTorch cannot."""
        reply = self._ask({"make": wanted})
        return reply["error"] if "error" in reply else Made(**reply)

    def time(self, number: int, times: int, repeats: int) -> float | str:
        """Return the median milliseconds of a case, or why PyTorch cannot run it."""
        replies = [self._ask({"run": number, "times": times}) for _ in range(repeats)]
        errors = [reply["error"] for reply in replies if "error" in reply]
        return errors[0] if errors else 1e3 * median(reply["seconds"] for reply in replies)

    def compute(self, form: str, shape: Mapping[str, int], file: Path) -> Path:
        """Run the CartesianMoE layer on the weights and the x of an .npz; return an .npy file."""
        reply = self._ask({"compute": {"experts": form, "shape": dict(shape), "file": str(file)}})
        if "error" in reply:
            raise UserError(f"PyTorch cannot run the {form} layer: {reply['error']}")
        return Path(reply["file"])

    def train(self, file: Path, **wanted: Any) -> Path:
        """Train the model on the weights and the tokens of an .npz; return another .npz."""
        reply = self._ask({"train": {**wanted, "file": str(file)}})
        if "error" in reply:
            raise UserError(f"PyTorch cannot train the {wanted['experts']} model: {reply['error']}")
        return Path(reply["file"])

    def forget(self) -> None:
        """Drop the cases so far."""
        self._ask({"forget": 1})

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise UserError("PyTorch's process ended: see above; torch, transformers installed?")
        return json.loads(line)


def our_layer(
    name: str,
    shape: SubLayerShape,
    sublayers: int,
    tokens: int,
    dtype: str = "float32",
    backward: bool = True,
) -> Case:
    """Compile our layer, computed in ``dtype``.

    With the gradients of input and weights; or without, on weights that are in that dtype too.
    """
    layer = CartesianProductLayer(shape, sublayers, rngs=nnx.Rngs(0))
    layer = layer if backward else narrowed(layer, jax.numpy.dtype(dtype))
    h = jax.random.normal(jax.random.key(1), (tokens, shape.d_model), dtype)

    def run(layer: CartesianProductLayer, h: Any) -> Any:
        if not backward:
            return layer(h)[0]
        return forward_and_backward(lambda layer, h: layer(h)[0], layer, h)

    return compile_case(name, run, layer, h)


def layer_groups(torch: PyTorch, flags: argparse.Namespace) -> Sequence[Callable[[], Group]]:
    """List what makes the groups of layers, one at a time: each holds its weights."""

    def group(kind: str, forms: Sequence[str], experts: int, width: int) -> Group:
        sublayers, shared = (1, BLOCKS[kind]) if kind in BLOCKS else (2, True)
        shape = SubLayerShape(
            flags.d_model, experts, flags.top_k, width, shared_expert=shared, init_std=0.02
        )
        fields = {
            "d_model": flags.d_model,
            "d_expert": width,
            "experts": experts,
            "top_k": flags.top_k,
        }
        theirs = [
            torch.case(form, kind=kind, experts=form, rows=flags.tokens, shape=fields)
            for form in forms
        ]
        active = flags.top_k + shared
        ours = dataclasses.replace(
            our_layer("ours", shape, sublayers, flags.tokens),
            flops=18 * sublayers * active * flags.tokens * flags.d_model * width,
        )
        return Group(f"{kind}, E={experts}, width {width}", [ours, *filter(None, theirs)])

    kinds = {"cartesian": OWN_FORMS, **dict.fromkeys(BLOCKS, BLOCK_FORMS)}
    return [
        lambda k=kind, f=forms, e=experts, w=width: group(k, f, e, w)
        for width in flags.d_expert
        for experts in flags.experts
        for kind, forms in kinds.items()
    ]


def step_group(torch: PyTorch, config: Config) -> Group:
    """Return the training step of a model whose every layer is a Cartesian Product Layer."""
    wanted = {
        "kind": "model",
        "rows": config.training.batch_size,
        "seq_len": config.data.seq_len,
        "shape": shape_of(config),
        "optimizer": optimizer_of(config),
    }
    remat = config.model.remat
    theirs = [
        torch.case(form + ", remat" * again, experts=form, remat=again, **wanted)
        for again in ([False] if remat == "none" else [False, True])
        for form in OWN_FORMS
    ]
    ours, _ = step_case("ours" if remat == "none" else f"ours, remat {remat}", config)
    return Group("training step", [ours, *filter(None, theirs)], follows=True)


def time_group(group: Group, rounds: int) -> list[Timing]:
    """Time the cases of a group in turns, each after a pause; the last is the machine's peak."""
    flops = group.cases[0].flops

    def rested(case: Case) -> Case:
        def before() -> None:
            time.sleep(PAUSE)
            if group.follows:
                jax.block_until_ready(case.run())

        return dataclasses.replace(case, flops=case.flops or flops, before=before)

    return time_cases([*(rested(case) for case in group.cases), peak_case()], rounds)


def rows_of(group: Group, timings: Sequence[Timing]) -> list[tuple[str, ...]]:
    """Return a group's lines under HEADER."""
    *timings, peak = timings
    ours = timings[0].median
    return [
        (
            group.label if not index else "",
            timing.case.name,
            f"{timing.median:.1f}",
            timing.quartiles(),
            f"{timing.median / ours:.2f}" if index else "",
            timing.of_peak(peak),
            f"{timing.case.temporary_bytes / 1e6:.1f}",
        )
        for index, timing in enumerate(timings)
    ]


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    """Return our flags, and those of the config of the training step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default=".venv-bench/bin/python", help="that has PyTorch")
    parser.add_argument("--what", choices=["layers", "step"], default="layers")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--top_k", type=int, default=2)
    parser.add_argument("--d_model", type=int, default=512)
    parser.add_argument("--d_expert", type=int, nargs="+", default=[512])
    parser.add_argument("--experts", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--vocab_size", type=int, default=257)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", help="file to write the measurements to")
    return parser.parse_known_args()


def main() -> None:
    """Measure, print, and write the JSON file if asked to."""
    from configs.flags import config_of  # not at the top: cases alone need no ml_collections

    flags, rest = parse_arguments()
    config = with_vocabulary(
        config_of(rest or ["--config=configs/quickstart.py"]), flags.vocab_size
    )
    take_memory(config.model) if flags.what == "step" else keep_freed_memory()
    torch = PyTorch(flags.python)
    print(
        f"PyTorch {torch.about['torch']}, {torch.about['threads']} threads; jax {jax.__version__}"
    )
    print(*(check(torch, form) for form in OWN_FORMS), sep="\n")
    rows, records = [], []
    groups = layer_groups(torch, flags)
    if flags.what == "step":
        print(*check_step(torch, OWN_FORMS, config), sep="\n")
        groups = [lambda: step_group(torch, config)]
    for make in groups:
        group = make()
        timings = time_group(group, flags.rounds)
        rows += rows_of(group, timings)
        records += [timing.record() | {"group": group.label} for timing in timings[:-1]]
        torch.forget()
    torch.close()
    print(format_table(HEADER, rows), peak_line(timings[-1]), sep="\n")
    if flags.json:
        with open(flags.json, "w") as file:
            json.dump(torch.about | {"jax": jax.__version__, "measurements": records}, file)


if __name__ == "__main__":
    main()
