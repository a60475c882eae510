"""Experts and the whole Cartesian Product Layer against their dense twins and their parts.

    python -m benchmarks.layer --json=layer.json

The dense twin of a computation is one SwiGLU of the sub-experts' width on the same rows: for the
layer, two of them in sequence on tokens x k rows and, beside each, one on the tokens (the shared
expert). The parts of the layer, each compiled alone, are the norms, routers, dispatches, experts,
combines and shared experts of both sub-layers; their sum is what the layer would cost if nothing
were gained or lost by joining them.
"""

import argparse
import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from benchmarks import experts as of_experts
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
from cartesian_moe_jax.layers.feed_forward import FeedForward
from cartesian_moe_jax.moe.balance import count_choices, routing_stats
from cartesian_moe_jax.moe.dispatch import LocalExchange
from cartesian_moe_jax.moe.routing import NO_CONTEXT
from cartesian_moe_jax.process_memory import keep_freed_memory

HEADER = (
    "computation",
    "ms",
    "quartiles",
    "to twin",
    "to parts",
    "of peak",
    "dropped",
    "temporary MB",
)
EXCHANGE = LocalExchange()
Run = Callable[..., Any]


def forward_and_backward(forward: Run, *inputs: Any) -> Any:
    """The output, and the gradients of all floating-point inputs for a cotangent of ones."""
    output, pull = jax.vjp(forward, *inputs)
    return output, pull(jax.tree.map(jnp.ones_like, output))


def parts(
    layer: CartesianProductLayer, h: Float[Array, "tokens d_model"]
) -> dict[str, tuple[Run, tuple[Any, ...]]]:
    """One sub-layer's parts as functions of floating-point inputs, with the inputs."""
    sublayer, norm = layer.sublayers[0], layer.norms[0]
    experts, num_experts = sublayer.experts, sublayer.experts.num_experts
    x = norm(h)
    routing = sublayer.router.choose(sublayer.router.scores(x, NO_CONTEXT))
    rows, group_sizes, plan = EXCHANGE.dispatch(x, routing, num_experts)

    def route(router: Any, x: Float[Array, "tokens d_model"]) -> Any:
        scores = router.scores(x, NO_CONTEXT)
        routing = router.choose(scores)
        load = count_choices(routing.expert_ids, num_experts) / x.shape[0]
        return routing.weights, routing_stats(scores, load, jnp.zeros(())).balance_loss

    return {
        "norm": (lambda norm, h: norm(h), (norm, h)),
        "router": (route, (sublayer.router, x)),
        "dispatch": (lambda x: EXCHANGE.dispatch(x, routing, num_experts)[0], (x,)),
        "experts": (
            lambda experts, rows: experts.run(rows, group_sizes, experts.weights()),
            (experts, rows),
        ),
        "combine": (
            lambda rows, weights: EXCHANGE.combine(
                rows, plan._replace(pairs=plan.pairs._replace(weights=weights))
            ),
            (rows, plan.pairs.weights),
        ),
        "shared expert": (lambda shared, x: shared.mix(x, x), (sublayer.shared_expert, x)),
    }


def dense_twin(
    layer: CartesianProductLayer, h: Float[Array, "tokens d_model"], top_k: int
) -> tuple[Run, tuple[Any, ...]]:
    """A dense feed-forward on tokens x k rows per sub-layer, in sequence, and one on the tokens."""
    d_model, d_expert = layer.sublayers[0].experts.up.shape[1:]
    count = len(layer.sublayers)
    dense = [
        FeedForward(d_model, d_expert, "swiglu", 0.02, rngs=nnx.Rngs(i)) for i in range(2 * count)
    ]

    def run(*inputs: Any) -> Any:
        *dense, rows, h = inputs
        for on_rows, on_tokens in zip(dense[:count], dense[count:], strict=True):
            rows, h = on_rows(rows), on_tokens(h)
        return rows, h

    return run, (*dense, jnp.tile(h, (top_k, 1)), h)


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was timed of one shape, interleaved."""

    layer: Timing
    twin: Timing
    peak: Timing
    parts: dict[str, Timing]
    """One sub-layer's; empty if they were not asked for."""
    sublayers: int
    dropped: float
    """Share of the tokens' choices that no expert ran."""

    def rows(self, label: str) -> list[tuple[str, ...]]:
        """Rows under HEADER: the twin, the layer, and the sum of its parts with the parts below."""
        total = self.sublayers * sum(part.median for part in self.parts.values())
        to_twin = f"{self.layer.median / self.twin.median:.2f}"
        to_parts = f"{self.layer.median / total:.2f}" if total else ""
        layer = _row(
            f"{label}, layer", self.layer, to_twin, to_parts, self.layer.of_peak(self.peak)
        )
        twin = _row(f"{label}, dense twin", self.twin, "1.00", "", self.twin.of_peak(self.peak))
        return [
            twin,
            (*layer[:-2], f"{self.dropped:.1%}", layer[-1]),
            (f"{label}, sum of parts", f"{total:.1f}", "", "", "1.00", "", "", ""),
            *(_row(f"  each of {self.sublayers} x {n}", t) for n, t in self.parts.items()),
        ]

    def records(self, label: str) -> list[dict[str, Any]]:
        """Return its numbers for JSON."""
        timings = (self.layer, self.twin, self.peak, *self.parts.values())
        return [t.record() | {"case": label, "dropped": self.dropped} for t in timings]


def _row(name: str, timing: Timing, *ratios: str) -> tuple[str, ...]:
    to_twin, to_parts, of_peak = ratios or ("", "", "")
    memory = f"{timing.case.temporary_bytes / 1e6:.0f}"
    return name, f"{timing.median:.1f}", timing.quartiles(), to_twin, to_parts, of_peak, "", memory


def measure(
    arguments: argparse.Namespace,
    num_experts: int,
    d_expert: int,
    backward: bool,
    sublayers: int = 2,
    with_parts: bool = True,
) -> Measured:
    """Time the layer, its dense twin and, if they are wanted, its parts."""
    shape = SubLayerShape(arguments.d_model, num_experts, arguments.top_k, d_expert, init_std=0.02)
    layer = CartesianProductLayer(shape, sublayers, rngs=nnx.Rngs(0))
    h = jax.random.normal(jax.random.key(1), (arguments.tokens, arguments.d_model))
    feed_forward = 6 * (arguments.top_k + 1) * d_expert
    per_token = {"layer": feed_forward + 2 * num_experts, "dense twin": feed_forward}
    scale = sublayers * arguments.tokens * arguments.d_model * (3 if backward else 1)
    runs = {
        "layer": (lambda layer, h: layer(h)[0], (layer, h)),
        "dense twin": dense_twin(layer, h, arguments.top_k),
        **(parts(layer, h) if with_parts else {}),
    }

    def case(name: str, forward: Run, inputs: tuple[Any, ...]) -> Case:
        run = functools.partial(forward_and_backward, forward) if backward else forward
        return compile_case(name, run, *inputs, flops=scale * per_token.get(name, 0))

    cases = [peak_case(), *(case(name, *run) for name, run in runs.items())]
    peak, ours, twin, *rest = time_cases(cases, arguments.rounds)
    dropped = float(jnp.mean(layer(h)[1].dropped))
    return Measured(ours, twin, peak, {t.case.name: t for t in rest}, sublayers, dropped)


def parse_arguments() -> argparse.Namespace:
    """The command line; the defaults are the shapes that the project reports."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--top_k", type=int, default=2)
    parser.add_argument("--d_model", type=int, default=512)
    parser.add_argument("--d_expert", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--experts", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", help="file to write the measurements to")
    return parser.parse_args()


def main() -> None:
    """Measure, print two tables, and write the JSON file if asked to."""
    arguments = parse_arguments()
    keep_freed_memory()
    setting = of_experts.Setting(
        arguments.tokens, arguments.top_k, arguments.d_model, "float32", "auto", arguments.rounds
    )
    rows, expert_records, line = of_experts.measure_all(
        setting, arguments.d_expert, arguments.experts
    )
    print(format_table(of_experts.HEADER, rows), line, sep="\n", flush=True)
    layer_rows, layer_records = [], []
    for d_expert in arguments.d_expert:
        for num_experts in arguments.experts:
            for backward in (False, True):
                kind = "forward+backward" if backward else "forward"
                label = f"{kind}, d_expert={d_expert}, E={num_experts}"
                measured = measure(arguments, num_experts, d_expert, backward)
                layer_rows += measured.rows(label)
                layer_records += measured.records(label)
    print("\n" + format_table(HEADER, layer_rows), peak_line(measured.peak), sep="\n")
    if arguments.json:
        device = {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
        content = {**vars(arguments), **device, "experts": expert_records, "layer": layer_records}
        with open(arguments.json, "w") as file:
            json.dump(content, file, indent=1)


if __name__ == "__main__":
    main()
