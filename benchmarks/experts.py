"""The grouped feed-forward against its dense twin, one SwiGLU of the same width on the same rows.

    python -m benchmarks.experts --json=experts.json

The ratio is the price of having many experts; 1 means that they cost no more than one. Freed
memory is kept, as in training. The weight gradients of all experts are results that many experts
have and the twin has not; in memory of small pages they are much of the difference: compare
`GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python -m benchmarks.experts`.
"""

import argparse
import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from benchmarks.timing import (
    Case,
    Timing,
    compile_case,
    format_table,
    peak_case,
    peak_line,
    time_cases,
)
from cartesian_moe_jax.kernels import BACKENDS, FeedForwardWeights, grouped_feed_forward
from cartesian_moe_jax.process_memory import keep_freed_memory

HEADER = ("computation", "ms", "quartiles", "ratio", "of peak", "temporary MB", "compile s")


Form = Callable[..., Float[Array, "rows d_model"]]
"""Runs rows, sorted by expert, with group sizes and weights."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """What the measurements of one run have in common."""

    tokens: int
    slots: int
    d_model: int
    dtype: str
    backend: str
    rounds: int


def dense_feed_forward(
    rows: Float[Array, "rows d_model"],
    group_sizes: Int[Array, "experts"],
    weights: FeedForwardWeights,
) -> Float[Array, "rows d_model"]:
    """The dense twin: the first expert on all rows, without groups."""
    del group_sizes
    gate, up, down = (weight[0] for weight in weights)
    return (jax.nn.silu(rows @ gate) * (rows @ up)) @ down


def ragged_feed_forward(
    rows: Float[Array, "rows d_model"],
    group_sizes: Int[Array, "experts"],
    weights: FeedForwardWeights,
) -> Float[Array, "rows d_model"]:
    """All experts by `jax.lax.ragged_dot`, which on CPU runs every expert on every row."""
    product = functools.partial(jax.lax.ragged_dot, group_sizes=group_sizes)
    return product(
        jax.nn.silu(product(rows, weights.gate)) * product(rows, weights.up), weights.down
    )


RAGGED: Mapping[str, Form] = {
    "": functools.partial(grouped_feed_forward, activation="swiglu"),
    ", ragged_dot": ragged_feed_forward,
}


def random_group_sizes(key: Array, tokens: int, slots: int, experts: int) -> Int[Array, "experts"]:
    """The load of each expert when every token picks `slots` distinct ones at random."""
    _, chosen = jax.lax.top_k(jax.random.uniform(key, (tokens, experts)), slots)
    return jnp.bincount(chosen.ravel(), length=experts)


def make_arguments(
    setting: Setting, experts: int, d_expert: int
) -> tuple[
    Float[Array, "rows d_model"],
    Int[Array, "experts"],
    FeedForwardWeights,
    Float[Array, "rows d_model"],
]:
    """Rows, group sizes, weights, and a cotangent of the output."""
    keys = jax.random.split(jax.random.key(0), 6)
    d_model, dtype = setting.d_model, jnp.dtype(setting.dtype)
    rows_shape = (setting.tokens * setting.slots, d_model)
    rows, cotangent = (jax.random.normal(key, rows_shape, dtype) for key in keys[:2])
    shapes = ((d_model, d_expert), (d_model, d_expert), (d_expert, d_model))
    weights = FeedForwardWeights(
        *(
            jax.random.normal(key, (experts, *shape), dtype) * shape[0] ** -0.5
            for key, shape in zip(keys[2:5], shapes, strict=True)
        )
    )
    sizes = random_group_sizes(keys[5], setting.tokens, setting.slots, experts)
    return rows, sizes, weights, cotangent


def forward_and_backward(
    forward: Callable[..., Float[Array, "rows d_model"]],
    rows: Float[Array, "rows d_model"],
    group_sizes: Int[Array, "experts"],
    weights: FeedForwardWeights,
    cotangent: Float[Array, "rows d_model"],
) -> Any:
    """The output and the gradients of rows and of all weights."""
    output, pull = jax.vjp(lambda r, w: forward(r, group_sizes, w), rows, weights)
    return output, pull(cotangent)


def measure(
    setting: Setting,
    d_expert: int,
    expert_counts: list[int],
    backward: bool,
    forms: Mapping[str, Form] | None = None,
) -> list[Timing]:
    """The peak, the dense twin, then each form (default: ours) at each number of experts."""
    label = f"{'forward+backward' if backward else 'forward'}, d_expert={d_expert}"
    grouped = functools.partial(grouped_feed_forward, activation="swiglu", backend=setting.backend)
    forms = {"": grouped} if forms is None else forms
    products = 3 if backward else 1
    flops = products * 6 * setting.tokens * setting.slots * setting.d_model * d_expert

    def case(name: str, forward: Form, experts: int) -> Case:
        rows, sizes, weights, cotangent = make_arguments(setting, experts, d_expert)
        if forward is dense_feed_forward:
            weights = jax.tree.map(lambda weight: weight[:1], weights)
        name = f"{label}, {name}"
        if backward:
            run = functools.partial(forward_and_backward, forward)
            return compile_case(name, run, rows, sizes, weights, cotangent, flops=flops)
        return compile_case(name, forward, rows, sizes, weights, flops=flops)

    twin = case("dense twin", dense_feed_forward, setting.slots)
    cases = [
        case(f"{experts} experts{form}", forward, experts)
        for experts in expert_counts
        for form, forward in forms.items()
    ]
    return time_cases([peak_case(setting.dtype), twin, *cases], setting.rounds)


def table_rows(timings: Sequence[Timing]) -> list[tuple[str, ...]]:
    """Rows under HEADER of what `measure` found."""
    peak, twin, *_ = timings
    return [
        (
            timing.case.name,
            f"{timing.median:.1f}",
            timing.quartiles(),
            f"{timing.median / twin.median:.2f}",
            timing.of_peak(peak),
            f"{timing.case.temporary_bytes / 1e6:.1f}",
            f"{timing.case.compile_seconds:.1f}",
        )
        for timing in timings[1:]
    ]


def measure_all(
    setting: Setting, widths: Sequence[int], expert_counts: list[int], **others: Any
) -> tuple[list[tuple[str, ...]], list[dict[str, Any]], str]:
    """Rows under HEADER, records, and what the peak is: both directions of each width."""
    rows, records, line = [], [], ""
    for d_expert in widths:
        for backward in (False, True):
            timings = measure(setting, d_expert, expert_counts, backward, **others)
            rows += table_rows(timings)
            twin, line = timings[1].median, peak_line(timings[0])
            records += [t.record() | {"ratio_to_dense_twin": t.median / twin} for t in timings]
    return rows, records, line


def parse_arguments() -> argparse.Namespace:
    """The command line; the defaults are the shapes that the project reports."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--slots", type=int, default=2, help="experts per token")
    parser.add_argument("--d_model", type=int, default=512)
    parser.add_argument("--d_expert", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--experts", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--backend", choices=["auto", *BACKENDS], default="auto")
    parser.add_argument("--ragged_dot", action="store_true", help="time that too: it is slow")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", help="file to write the measurements to")
    arguments = parser.parse_args()
    if min(arguments.experts) < arguments.slots:
        parser.error(f"experts={min(arguments.experts)}: must be at least slots={arguments.slots}")
    return arguments


def main() -> None:
    """Measures, prints one table, and writes the JSON file if asked to."""
    arguments = parse_arguments()
    keep_freed_memory()
    fields = [field.name for field in dataclasses.fields(Setting)]
    setting = Setting(**{name: getattr(arguments, name) for name in fields})
    forms = {"forms": RAGGED} if arguments.ragged_dot else {}
    rows, records, line = measure_all(setting, arguments.d_expert, arguments.experts, **forms)
    print(format_table(HEADER, rows), line, sep="\n")
    if arguments.json:
        device = {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
        with open(arguments.json, "w") as file:
            setting_record = dataclasses.asdict(setting) | device
            json.dump({"setting": setting_record, "measurements": records}, file, indent=2)


if __name__ == "__main__":
    main()
