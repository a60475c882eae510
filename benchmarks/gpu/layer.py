"""How fast are experts and the whole Cartesian Product Layer, forward and backward.

Against their dense twins, as in benchmarks/layer.py, and against what XLA's `ragged_dot` makes of
them, with rules of differentiation of our own (backend `ragged`) and with its own alone.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from flax import nnx

from benchmarks import experts as of_experts
from benchmarks import layer as of_layer
from benchmarks.gpu.clock import measure
from benchmarks.gpu.context import Context
from benchmarks.gpu.sizes import Layer
from cartesian_moe_jax import CartesianProductLayer, SubLayerShape
from cartesian_moe_jax.kernels import grouped_feed_forward

SUBLAYERS = 2


class Trial(NamedTuple):
    """One way to compute something, ready to be timed."""

    what: str
    by: str
    operations: float
    run: Any
    operands: tuple[Any, ...]


def run(context: Context) -> None:
    """Time whole layers, then experts alone, at every size.

    What XLA expands comes last: it takes long to compile, and may take all memory.
    """
    twins: dict[Any, float] = {}
    for expanded in (False, True):
        for trials in (layer_trials, experts_trials):
            for layer in context.sizes.layers:
                for trial in trials(context, layer):
                    if ("ragged" in trial.by) == expanded:
                        _time(context, layer, trial, twins)


def _time(context: Context, layer: Layer, trial: Trial, twins: dict[Any, float]) -> None:
    """Time one trial, and keep its ratio to the twin, which comes first, in ``twins``."""
    done = measure(context.sizes.seconds, trial.run, *trial.operands)
    found = {"what": trial.what, **layer._asdict(), "by": trial.by}
    if isinstance(done, str):
        context.record.add(**found, none=done)
        return
    if trial.by == "dense twin":
        twins[trial.what, layer] = done.ms
    twin = twins.get((trial.what, layer))
    ratio = {"to_twin": done.ms / twin} if twin else {}
    rate = context.rate(trial.operations, done.ms)
    context.record.add(**found, **done._asdict(), **ratio, **rate)


def experts_trials(context: Context, layer: Layer) -> Iterator[Trial]:
    """Experts alone, on rows that are sorted already."""
    tokens, slots, experts, d_model, d_expert = layer
    setting = of_experts.Setting(tokens, slots, d_model, context.sizes.dtype, "auto", 0)
    rows, counts, weights, cotangent = of_experts.make_arguments(setting, experts, d_expert)
    one = jax.tree.map(lambda weight: weight[:1], weights)
    ours = functools.partial(grouped_feed_forward, activation="swiglu")
    forms = {
        "dense twin": of_experts.dense_feed_forward,
        "ours": ours,
        "backend ragged": functools.partial(ours, backend="ragged"),
        "ragged_dot": of_experts.ragged_feed_forward,
    }
    operations = 18 * tokens * slots * d_model * d_expert
    for name, form in forms.items():
        own = one if name == "dense twin" else weights
        run = functools.partial(of_experts.forward_and_backward, form)
        yield Trial("experts", name, operations, run, (rows, counts, own, cotangent))


def layer_trials(context: Context, layer: Layer) -> Iterator[Trial]:
    """The layer with float32 weights, as in training."""
    h = jax.random.normal(jax.random.key(1), (layer.tokens, layer.d_model), context.sizes.dtype)
    own = (layer.d_model, layer.experts, layer.top_k, layer.d_expert)
    per_row = 6 * (layer.top_k + 1) * layer.d_expert
    scale = 3 * SUBLAYERS * layer.tokens * layer.d_model

    def made(backend: str) -> CartesianProductLayer:
        shape = SubLayerShape(*own, init_std=0.02, backend=backend)
        return CartesianProductLayer(shape, SUBLAYERS, rngs=nnx.Rngs(0))

    def trial(by: str, forward: Any, *inputs: Any) -> Trial:
        operations = scale * (per_row + (0 if by == "dense twin" else 2 * layer.experts))
        run = functools.partial(of_layer.forward_and_backward, forward)
        return Trial("layer", by, operations, run, inputs)

    twin, inputs = of_layer.dense_twin(made("auto"), h, layer.top_k)
    yield trial("dense twin", twin, *inputs)
    for by, backend in {"ours": "auto", "backend ragged": "ragged"}.items():
        yield trial(by, lambda layer, h: layer(h)[0], made(backend), h)
