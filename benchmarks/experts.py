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
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from benchmarks.timing import Case, Timing, compile_case, format_table, time_cases
from cartesian_moe_jax.kernels import BACKENDS, FeedForwardWeights, grouped_feed_forward
from cartesian_moe_jax.process_memory import keep_freed_memory

HEADER = ("computation", "ms", "quartiles", "ratio", "temporary MB", "compile s")


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
    setting: Setting, d_expert: int, expert_counts: list[int], backward: bool
) -> list[Timing]:
    """The dense twin, then the grouped feed-forward at each number of experts."""
    label = f"{'forward+backward' if backward else 'forward'}, d_expert={d_expert}"
    grouped = functools.partial(grouped_feed_forward, activation="swiglu", backend=setting.backend)

    def case(name: str, forward: Callable, experts: int) -> Case:
        rows, sizes, weights, cotangent = make_arguments(setting, experts, d_expert)
        if forward is dense_feed_forward:
            weights = jax.tree.map(lambda weight: weight[:1], weights)
        if backward:
            run = functools.partial(forward_and_backward, forward)
            return compile_case(f"{label}, {name}", run, rows, sizes, weights, cotangent)
        return compile_case(f"{label}, {name}", forward, rows, sizes, weights)

    twin = case("dense twin", dense_feed_forward, setting.slots)
    cases = [case(f"{experts} experts", grouped, experts) for experts in expert_counts]
    return time_cases([twin, *cases], setting.rounds)


def table_row(timing: Timing, twin: Timing) -> tuple[str, ...]:
    """One row under HEADER."""
    return (
        timing.case.name,
        f"{timing.median:.1f}",
        f"{timing.lower_quartile:.1f}-{timing.upper_quartile:.1f}",
        f"{timing.median / twin.median:.2f}",
        f"{timing.case.temporary_bytes / 1e6:.1f}",
        f"{timing.case.compile_seconds:.1f}",
    )


def parse_arguments() -> argparse.Namespace:
    """The command line; the defaults are the shapes that the project reports."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--slots", type=int, default=2, help="experts per token")
    parser.add_argument("--d_model", type=int, default=512)
    parser.add_argument("--d_expert", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--experts", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--backend", choices=["auto", *BACKENDS], default="tiled")
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
    rows, records = [], []
    for d_expert in arguments.d_expert:
        for backward in (False, True):
            timings = measure(setting, d_expert, arguments.experts, backward)
            rows += [table_row(timing, timings[0]) for timing in timings]
            records += [
                timing.record() | {"ratio_to_dense_twin": timing.median / timings[0].median}
                for timing in timings
            ]
    print(format_table(HEADER, rows))
    if arguments.json:
        device = {"device": jax.devices()[0].device_kind, "jax": jax.__version__}
        with open(arguments.json, "w") as file:
            setting_record = dataclasses.asdict(setting) | device
            json.dump({"setting": setting_record, "measurements": records}, file, indent=2)


if __name__ == "__main__":
    main()
