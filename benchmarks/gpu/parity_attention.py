"""Is what causal attention computes right? The kernels for this platform against float64."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from benchmarks.gpu.errors import FAIL, IN_A_ROW, TOLERANCES, error_of, verdict
from benchmarks.gpu.record import Record
from benchmarks.gpu.sizes import Heads
from cartesian_moe_jax.kernels.causal_attention import ATTENTIONS, best_causal_attention
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


def check(heads: Heads, dtype: str, record: Record) -> None:
    """Check the output and the three gradients of the best kernel here, and of XLA's own."""
    keys = jax.random.split(jax.random.key(0), 4)
    arguments = tuple(jax.random.normal(key, heads, dtype) for key in keys)
    with jax.enable_x64(True):
        wide = tuple(jnp.asarray(a, jnp.float64) for a in arguments)
        exact = jax.jit(functools.partial(with_gradients, plain_attention))(*wide)
    best = best_causal_attention(jnp.dtype(dtype), heads.d_head)
    name = next(name for name, known in ATTENTIONS.items() if known is best)
    for by, attend in {name: best.run, "xla": ATTENTIONS["xla"].run}.items():
        found = {**heads._asdict(), "by": by, "dtype": dtype}
        try:
            results = jax.jit(functools.partial(with_gradients, attend))(*arguments)
            _compare(record, found, results, exact)
        except (jax.errors.JaxRuntimeError, ValueError, NotImplementedError) as error:
            record.add(what="attention", **found, result=FAIL, reason=one_line(error))


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
