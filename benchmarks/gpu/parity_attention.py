"""Is what causal attention computes right? The kernels for this platform against float64."""

import functools
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from benchmarks.gpu.clock import FAILURES
from benchmarks.gpu.errors import FAIL, IN_A_ROW, TOLERANCES, verdict
from benchmarks.gpu.exact import compile_in_float64, in_float64
from benchmarks.gpu.record import Record
from benchmarks.gpu.sizes import Heads
from cartesian_moe_jax.kernels.causal_attention import ATTENTIONS, best_causal_attention
from cartesian_moe_jax.kernels.leg_trials import Run, compile_run
from cartesian_moe_jax.kernels.relative_error import error_of
from cartesian_moe_jax.kernels.tuning import one_line

Attend = Callable[..., Float[Array, "batch seq heads d_head"]]


def plain_attention(
    query: Float[Array, "batch seq heads d_head"],
    key: Float[Array, "batch seq heads d_head"],
    value: Float[Array, "batch seq heads d_head"],
) -> Float[Array, "batch seq heads d_head"]:
    """Softmax over all scores at once, in the dtype of its operands."""
    seq, d_head = query.shape[1], query.shape[-1]
    exact = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    scores = exact("bqhd,bkhd->bhqk", query, key) * d_head**-0.5
    scores = jnp.where(jnp.tril(jnp.ones((seq, seq), bool)), scores, -jnp.inf)
    return exact("bhqk,bkhd->bqhd", jax.nn.softmax(scores, axis=-1), value)


def begin(pool: Executor, heads: Heads, dtype: str) -> Callable[[Record], None]:
    """Compile the best kernel here, and XLA's own; return what checks outputs and gradients."""
    shapes = (jax.ShapeDtypeStruct(heads, jnp.dtype(dtype)),) * 4
    best = best_causal_attention(jnp.dtype(dtype), heads.d_head)
    name = next(name for name, known in ATTENTIONS.items() if known is best)
    forms = {name: best.run, "xla": ATTENTIONS["xla"].run}

    def submit(compile_: Callable[..., Run], attend: Attend) -> Future[Run]:
        return pool.submit(compile_, functools.partial(with_gradients, attend), shapes)

    exact = submit(compile_in_float64, plain_attention)
    compiled = {by: submit(compile_run, attend) for by, attend in forms.items()}

    def finish(record: Record) -> None:
        keys = jax.random.split(jax.random.key(0), 4)
        arguments = tuple(jax.random.normal(key, heads, dtype) for key in keys)
        expected = in_float64(exact.result(), arguments)
        for by, program in compiled.items():
            found = {**heads._asdict(), "by": by, "dtype": dtype}
            try:
                _compare(record, found, program.result()(*arguments), expected)
            except FAILURES as error:
                record.add(what="attention", **found, result=FAIL, reason=one_line(error))

    return finish


def with_gradients(attend: Attend, *arguments: Float[Array, "batch seq heads d_head"]) -> Any:
    """The output and the gradients of query, key and value; the last argument is a cotangent."""
    *operands, cotangent = arguments
    output, pull = jax.vjp(attend, *operands)
    return output, *pull(cotangent)


def _compare(record: Record, found: dict[str, Any], results: Any, exact: Any) -> None:
    dtype = found["dtype"]
    for name, result, right in zip(
        ("output", "d query", "d key", "d value"), results, exact, strict=True
    ):
        # Slices are heads: the first position's query has no gradient to be relative to.
        error = error_of(*(by_head(array) for array in (result, right)))
        limit = IN_A_ROW * TOLERANCES[dtype, dtype]
        record.add(what=f"attention: {name}", **found, **verdict(error, limit))


def by_head(array: Float[Array, "batch seq heads d_head"]) -> Float[Array, "slices seq d_head"]:
    """Every head of every sequence."""
    batch, seq, heads, d_head = array.shape
    return array.swapaxes(1, 2).reshape(batch * heads, seq, d_head)
