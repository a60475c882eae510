"""The grouped feed-forward against its dense twin, one SwiGLU of the same width on the same rows.

    python -m benchmarks.experts --json=experts.json

The ratio is the price of having many experts; 1 means that they cost no more than one. The times
include fresh memory for the results, among them the weight gradients of all experts. Where the
kernel maps memory in small pages, that is much of the difference at many experts: compare
`GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python -m benchmarks.experts`.
"""

import functools
import json
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from absl import app, flags
from jaxtyping import Array, Float, Int

from benchmarks.timing import Case, Timing, compile_case, format_table, time_cases
from cartesian_moe_jax.kernels import FeedForwardWeights, grouped_feed_forward

_TOKENS = flags.DEFINE_integer("tokens", 4096, "Tokens.", lower_bound=1)
_D_MODEL = flags.DEFINE_integer("d_model", 512, "Width of the model.", lower_bound=1)
_SLOTS = flags.DEFINE_integer("slots", 2, "Experts per token.", lower_bound=1)
_D_EXPERT = flags.DEFINE_multi_integer("d_expert", [512, 1024], "Hidden width of an expert.")
_EXPERTS = flags.DEFINE_multi_integer("experts", [16, 64], "Number of experts.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of rows and weights.")
_BACKEND = flags.DEFINE_string("backend", "tiled", "Backend of the grouped feed-forward.")
_ROUNDS = flags.DEFINE_integer("rounds", 15, "Rounds that count.", lower_bound=1)
_JSON = flags.DEFINE_string("json", None, "Where to write the measurements, if anywhere.")

HEADER = ("computation", "ms", "quartiles", "ratio", "temporary MB", "compile s")


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
    experts: int, d_expert: int
) -> tuple[
    Float[Array, "rows d_model"],
    Int[Array, "experts"],
    FeedForwardWeights,
    Float[Array, "rows d_model"],
]:
    """Rows, group sizes, weights, and a cotangent of the output."""
    keys = jax.random.split(jax.random.key(0), 6)
    d_model, dtype = _D_MODEL.value, jnp.dtype(_DTYPE.value)
    rows_shape = (_TOKENS.value * _SLOTS.value, d_model)
    rows, cotangent = (jax.random.normal(key, rows_shape, dtype) for key in keys[:2])
    shapes = ((d_model, d_expert), (d_model, d_expert), (d_expert, d_model))
    weights = FeedForwardWeights(
        *(
            jax.random.normal(key, (experts, *shape), dtype) * shape[0] ** -0.5
            for key, shape in zip(keys[2:5], shapes, strict=True)
        )
    )
    sizes = random_group_sizes(keys[5], _TOKENS.value, min(_SLOTS.value, experts), experts)
    return rows, sizes, weights, cotangent


def make_case(name: str, forward: Callable, experts: int, d_expert: int, backward: bool) -> Case:
    """The forward pass, or with `backward` also the gradients of rows and of all weights."""
    *arguments, cotangent = make_arguments(experts, d_expert)

    def forward_and_backward(rows, group_sizes, weights, cotangent):
        output, pull = jax.vjp(lambda r, w: forward(r, group_sizes, w), rows, weights)
        return output, pull(cotangent)

    if backward:
        return compile_case(name, forward_and_backward, *arguments, cotangent)
    return compile_case(name, forward, *arguments)


def measure(d_expert: int, backward: bool) -> list[Timing]:
    """The dense twin, then the grouped feed-forward at each number of experts."""
    grouped = functools.partial(grouped_feed_forward, activation="swiglu", backend=_BACKEND.value)
    passes = "forward+backward" if backward else "forward"
    label = f"{passes}, d_expert={d_expert}"
    cases = [make_case(f"{label}, dense twin", dense_feed_forward, 1, d_expert, backward)]
    for experts in _EXPERTS.value:
        name = f"{label}, {experts} experts"
        cases.append(make_case(name, grouped, experts, d_expert, backward))
    return time_cases(cases, _ROUNDS.value)


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


def main(argv: Sequence[str]) -> None:
    """Measures, prints one table, and writes the JSON file if asked to."""
    if len(argv) > 1:
        raise app.UsageError(f"arguments={argv[1:]}: only flags are allowed")
    rows, records = [], []
    for d_expert in _D_EXPERT.value:
        for backward in (False, True):
            timings = measure(d_expert, backward)
            rows += [table_row(timing, timings[0]) for timing in timings]
            records += [
                t.record() | {"ratio_to_dense_twin": t.median / timings[0].median} for t in timings
            ]
    print(format_table(HEADER, rows))
    if _JSON.value:
        with open(_JSON.value, "w") as file:
            json.dump({"setting": setting(), "measurements": records}, file, indent=2)


def setting() -> dict[str, str | int]:
    """What the measurements have in common."""
    common = (_TOKENS, _SLOTS, _D_MODEL, _DTYPE, _BACKEND)
    device = jax.devices()[0]
    return {flag.name: flag.value for flag in common} | {
        "device": device.device_kind,
        "jax": jax.__version__,
    }


if __name__ == "__main__":
    app.run(main)
