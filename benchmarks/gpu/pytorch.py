"""Our layers against PyTorch's: blocks of transformers, and a CartesianMoE in plain PyTorch.

PyTorch runs in a process of its own on the same GPU, and waits while ours run.
"""

from typing import Any

import jax

from benchmarks.against_pytorch import BLOCKS, OWN_FORMS, PyTorch, our_layer
from benchmarks.gpu.clock import REPEATS
from benchmarks.gpu.context import Context
from benchmarks.gpu.sizes import Layer
from benchmarks.parity import check
from cartesian_moe_jax import SubLayerShape
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.kernels.leg_trials import time_run
from cartesian_moe_jax.kernels.tuning import one_line

FORMS = {"cartesian": OWN_FORMS, **dict.fromkeys(BLOCKS, ("eager", "grouped_mm"))}
"""batched_mm is left out: it copies the weights of every token's experts."""


def run(context: Context) -> None:
    """Check that PyTorch's layer computes what ours does, then time all at every size."""
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    try:
        torch = PyTorch(context.python, device, context.sizes.dtype)
    except UserError as error:
        context.record.note(f"not compared with PyTorch: {error}")
        return
    context.record.note(f"PyTorch {torch.about['torch']} on {torch.about['device']}")
    context.record.note(
        "forward and backward our weights are float32, cast at every run; PyTorch's need no cast"
    )
    for form in OWN_FORMS:
        context.record.note(_check(torch, form))
    for layers, backward in (
        (context.sizes.pytorch, True),
        (context.sizes.pytorch_decoding, False),
    ):
        for layer in layers:
            for kind, forms in FORMS.items():
                _time(context, torch, kind, forms, layer, backward)
                torch.forget()
    torch.close()


def _check(torch: PyTorch, form: str) -> str:
    """Compare in float32, without the tensor cores' ten bits."""
    try:
        with jax.default_matmul_precision("highest"):
            return check(torch, form)
    except (UserError, SystemExit) as error:
        return f"not compared in float32: {error}"


def _time(
    context: Context, torch: PyTorch, kind: str, forms: Any, layer: Layer, backward: bool
) -> None:
    sublayers, shared = (1, BLOCKS[kind]) if kind in BLOCKS else (2, True)
    tokens, top_k, experts, d_model, width = layer
    shape = SubLayerShape(d_model, experts, top_k, width, shared_expert=shared, init_std=0.02)
    operations = (18 if backward else 6) * sublayers * (top_k + shared) * tokens * d_model * width
    found = {"what": kind if backward else f"{kind}, forward", **layer._asdict()}
    try:
        ours = our_layer("ours", shape, sublayers, tokens, context.sizes.dtype, backward=backward)
        ms = time_run(ours.run, (), context.sizes.seconds, REPEATS)
    except jax.errors.JaxRuntimeError as error:
        context.record.add(**found, by="ours", none=one_line(error))
        return
    memory = {"temporary_bytes": ours.temporary_bytes}
    context.record.add(**found, by="ours", ms=ms, **context.rate(operations, ms), **memory)
    fields = {"d_model": d_model, "d_expert": width, "experts": experts, "top_k": top_k}
    runs = context.sizes.pytorch_runs
    for form in forms:
        made = torch.make(kind=kind, experts=form, rows=tokens, shape=fields, backward=backward)
        theirs = made if isinstance(made, str) else torch.time(made.number, runs, REPEATS)
        found["by"] = f"PyTorch {form}"
        if isinstance(theirs, str):
            context.record.add(**found, none=theirs)
            continue
        rate = context.rate(operations, theirs)
        memory = {"temporary_bytes": made.temporary_bytes}
        context.record.add(**found, ms=theirs, to_ours=theirs / ms, **rate, **memory)
