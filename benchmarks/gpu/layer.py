"""How fast are experts and the whole Cartesian Product Layer, forward and backward.

Against their dense twins, as in benchmarks/layer.py, and against what XLA's `ragged_dot` makes of
them, with rules of differentiation of our own (backend `ragged`) and with its own alone.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from flax import nnx

from benchmarks import experts as of_experts
from benchmarks import layer as of_layer
from benchmarks.gpu.clock import time_case, together
from benchmarks.gpu.context import Context
from benchmarks.gpu.sizes import Layer
from benchmarks.timing import Case, compile_case
from cartesian_moe_jax import CartesianProductLayer, SubLayerShape
from cartesian_moe_jax.kernels import grouped_feed_forward

SUBLAYERS = 2
TWIN = "dense twin"


class Trial(NamedTuple):
    """One way to compute something."""

    what: str
    by: str
    layer: Layer
    operations: float
    make: Callable[[], Case]
    """Makes its operands and compiles it."""
    expanded: bool = False
    """Whether XLA expands it: it takes long to compile, and may take all memory."""


def run(context: Context) -> None:
    """Time whole layers, then experts alone, at every size; then what XLA expands."""
    twins: dict[Any, float] = {}
    for batch in batches(context):
        cases = together(trial.make for trial in batch)
        for trial, case in zip(batch, cases, strict=True):
            _time(context, trial, case, twins)


def batches(context: Context) -> Iterator[list[Trial]]:
    """What is compiled together; of what XLA expands, one size alone."""
    layers, dtype = context.sizes.layers, context.sizes.dtype
    every = [
        t for trials in (layer_trials, experts_trials) for y in layers for t in trials(y, dtype)
    ]
    yield [trial for trial in every if not trial.expanded]
    for layer in layers:
        yield [trial for trial in every if trial.expanded and trial.layer == layer]


def _time(context: Context, trial: Trial, case: Case | str, twins: dict[Any, float]) -> None:
    """Time one trial, and keep its ratio to the twin, which comes first, in ``twins``."""
    ms = time_case(case, context.sizes.seconds)
    found = {"what": trial.what, **trial.layer._asdict(), "by": trial.by}
    if isinstance(ms, str):
        context.record.add(**found, none=ms)
        return
    if trial.by == TWIN:
        twins[trial.what, trial.layer] = ms
    twin = twins.get((trial.what, trial.layer))
    ratio = {"to_twin": ms / twin} if twin else {}
    rate = context.rate(trial.operations, ms)
    memory = {"temporary_bytes": case.temporary_bytes}
    context.record.add(**found, ms=ms, **memory, **ratio, **rate)


def experts_trials(layer: Layer, dtype: str) -> Iterator[Trial]:
    """Experts alone, on rows that are sorted already."""
    tokens, slots, experts, d_model, d_expert = layer
    setting = of_experts.Setting(tokens, slots, d_model, dtype, "auto", 0)
    operations = 18 * tokens * slots * d_model * d_expert

    def make(form: of_experts.Form) -> Case:
        rows, counts, weights, cotangent = of_experts.make_arguments(setting, experts, d_expert)
        if form is of_experts.dense_feed_forward:
            weights = jax.tree.map(lambda weight: weight[:1], weights)
        run = functools.partial(of_experts.forward_and_backward, form)
        return compile_case("experts", run, rows, counts, weights, cotangent)

    ours = functools.partial(grouped_feed_forward, activation="swiglu")
    for by, form, expanded in (
        (TWIN, of_experts.dense_feed_forward, False),
        ("ours", ours, False),
        ("backend ragged", functools.partial(ours, backend="ragged"), True),
        ("ragged_dot", of_experts.ragged_feed_forward, True),
    ):
        yield Trial("experts", by, layer, operations, functools.partial(make, form), expanded)


def layer_trials(layer: Layer, dtype: str) -> Iterator[Trial]:
    """The layer with float32 weights, as in training."""
    own = (layer.d_model, layer.experts, layer.top_k, layer.d_expert)
    dense = 6 * (layer.top_k + 1) * layer.d_expert
    scale = 3 * SUBLAYERS * layer.tokens * layer.d_model

    def make(backend: str, *, twin: bool) -> Case:
        h = jax.random.normal(jax.random.key(1), (layer.tokens, layer.d_model), dtype)
        shape = SubLayerShape(*own, init_std=0.02, backend=backend)

        def made() -> CartesianProductLayer:
            return CartesianProductLayer(shape, SUBLAYERS, rngs=nnx.Rngs(0))

        if twin:
            forward, inputs = of_layer.dense_twin(nnx.eval_shape(made), h, layer.top_k)
        else:
            forward, inputs = (lambda layer, h: layer(h)[0]), (made(), h)
        run = functools.partial(of_layer.forward_and_backward, forward)
        return compile_case("layer", run, *inputs)

    twin = functools.partial(make, "auto", twin=True)
    yield Trial("layer", TWIN, layer, scale * dense, twin)
    for by, backend, expanded in (("ours", "auto", False), ("backend ragged", "ragged", True)):
        whole = functools.partial(make, backend, twin=False)
        yield Trial("layer", by, layer, scale * (dense + 2 * layer.experts), whole, expanded)
