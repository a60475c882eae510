"""Our layers against PyTorch's: blocks of transformers, and a CartesianMoE in plain PyTorch.

PyTorch runs in a process of its own on the same GPU, and waits while ours run.
"""

import functools
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import jax

from benchmarks.against_pytorch import BLOCKS, OWN_FORMS, PyTorch, our_layer
from benchmarks.gpu.clock import REPEATS, time_case, together
from benchmarks.gpu.context import Context
from benchmarks.gpu.sizes import Layer, Sizes
from benchmarks.parity import check
from benchmarks.timing import Case
from cartesian_moe_jax import SubLayerShape
from cartesian_moe_jax.errors import UserError

FORMS = {"cartesian": OWN_FORMS, **dict.fromkeys(BLOCKS, ("eager", "grouped_mm"))}
"""batched_mm is left out: it copies the weights of every token's experts."""
SOON = 2.0
"""Seconds in which PyTorch's process ends where there is no PyTorch."""


class Ours(NamedTuple):
    """One of our layers: some of PyTorch's are compared with the same."""

    layer: Layer
    backward: bool
    sublayers: int
    shared: bool

    def case(self, dtype: str) -> Case:
        """Compile it."""
        tokens, top_k, experts, d_model, width = self.layer
        shape = SubLayerShape(
            d_model, experts, top_k, width, shared_expert=self.shared, init_std=0.02
        )
        return our_layer("ours", shape, self.sublayers, tokens, dtype, backward=self.backward)

    def operations(self) -> int:
        """The floating-point operations that it needs."""
        tokens, top_k, _, d_model, width = self.layer
        per_weight = 18 if self.backward else 6
        return per_weight * self.sublayers * (top_k + self.shared) * tokens * d_model * width


def run(context: Context) -> None:
    """Check that PyTorch's layer computes what ours does, then time all at every size.

    PyTorch starts, and what it computes is checked, while our programs are compiled.
    """
    pairs = list_pairs(context.sizes)
    with ThreadPoolExecutor(1) as beside:
        beginning = beside.submit(_begin, context)
        try:
            if beginning in wait([beginning], SOON).done:
                beginning.result()
            ours = list(dict.fromkeys(own for _, own in pairs))
            cases = together(functools.partial(own.case, context.sizes.dtype) for own in ours)
            torch = beginning.result()
        except UserError as error:
            context.record.note(f"not compared with PyTorch: {error}")
            return
    known = dict(zip(ours, cases, strict=True))
    for kind, own in pairs:
        _time(context, torch, kind, own, known)
        torch.forget()
    torch.close()


def list_pairs(sizes: Sizes) -> list[tuple[str, Ours]]:
    """The kinds of layers with ours, in the order in which they are timed."""
    return [
        (kind, Ours(layer, backward, *((1, BLOCKS[kind]) if kind in BLOCKS else (2, True))))
        for layers, backward in ((sizes.pytorch, True), (sizes.pytorch_decoding, False))
        for layer in layers
        for kind in FORMS
    ]


def _begin(context: Context) -> PyTorch:
    """Start PyTorch's process, and compare what its layer computes with what ours does."""
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    torch = PyTorch(context.python, device, context.sizes.dtype)
    context.record.note(f"PyTorch {torch.about['torch']} on {torch.about['device']}")
    context.record.note(
        "forward and backward our weights are float32, cast at every run; PyTorch's need no cast"
    )
    for form in OWN_FORMS:
        context.record.note(_check(torch, form))
    return torch


def _check(torch: PyTorch, form: str) -> str:
    """Compare in float32, without the tensor cores' ten bits."""
    try:
        with jax.default_matmul_precision("highest"):
            return check(torch, form)
    except (UserError, SystemExit) as error:
        return f"not compared in float32: {error}"


def _time(
    context: Context, torch: PyTorch, kind: str, own: Ours, known: Mapping[Ours, Case | str]
) -> None:
    """Time ours, then every form of PyTorch's."""
    case, backward = known[own], own.backward
    found: dict[str, Any] = {"what": kind if backward else f"{kind}, forward"}
    found |= {**own.layer._asdict(), "by": "ours"}
    ms = time_case(case, context.sizes.seconds)
    if isinstance(ms, str):
        context.record.add(**found, none=ms)
        return
    memory = {"temporary_bytes": case.temporary_bytes}
    context.record.add(**found, ms=ms, **context.rate(own.operations(), ms), **memory)
    names = ("d_model", "d_expert", "experts", "top_k")
    shape = {name: getattr(own.layer, name) for name in names}
    wanted = {"kind": kind, "rows": own.layer.tokens, "shape": shape, "backward": backward}
    for form in FORMS[kind]:
        found["by"] = f"PyTorch {form}"
        made = torch.make(experts=form, **wanted)
        runs = context.sizes.pytorch_runs
        theirs = made if isinstance(made, str) else torch.time(made.number, runs, REPEATS)
        if isinstance(theirs, str):
            context.record.add(**found, none=theirs)
            continue
        rate = context.rate(own.operations(), theirs)
        memory = {"temporary_bytes": made.temporary_bytes}
        context.record.add(**found, ms=theirs, to_ours=theirs / ms, **rate, **memory)
