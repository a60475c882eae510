"""Is what the kernels compute right? Each leg, whole experts, attention, against float64.

At the first shape every block that a leg can be computed with is checked, at the others the default
one, on groups that no tile fits: unaligned; and by one block of every backend empty ones, of one
row, one for nearly all rows. Rows that belong to no group hold NaN.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import jax

from benchmarks.experts import Setting, forward_and_backward, make_arguments
from benchmarks.gpu import parity_attention
from benchmarks.gpu.clock import FAILURES
from benchmarks.gpu.context import Context
from benchmarks.gpu.errors import FAIL, IN_A_ROW, NONE, TOLERANCES, verdict
from benchmarks.gpu.exact import compile_in_float64, in_float64
from benchmarks.gpu.record import Record
from benchmarks.gpu.sizes import Experts, Sizes
from cartesian_moe_jax.kernels import grouped_feed_forward
from cartesian_moe_jax.kernels.activations import get_activation
from cartesian_moe_jax.kernels.blocks import LegShape
from cartesian_moe_jax.kernels.by_leg import CANDIDATES, OURS, available
from cartesian_moe_jax.kernels.composed import composed_feed_forward
from cartesian_moe_jax.kernels.leg_groups import kinds_of_groups, with_groups
from cartesian_moe_jax.kernels.leg_trials import (
    Operands,
    Run,
    compile_run,
    feed_forward_legs,
    operands,
    run_of,
)
from cartesian_moe_jax.kernels.plain import PLAIN
from cartesian_moe_jax.kernels.relative_error import Error, error_of, error_of_leg
from cartesian_moe_jax.kernels.timings import Choice
from cartesian_moe_jax.kernels.tuning import (
    THREADS,
    choices,
    compile_choice,
    described,
    one_line,
)

EXPERTS = ("output", "d rows", "d gate", "d up", "d down")
"""What whole experts compute."""
Finish = Callable[[Record], None]
"""Checks what was compiled for it."""


def run(context: Context) -> None:
    """Check legs, experts and attention, in this order; what is checked later compiles beside."""
    pool = ThreadPoolExecutor(THREADS)
    try:
        for finish in list(_begin(context.sizes, pool)):
            finish(context.record)
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(sizes: Sizes, pool: Executor) -> Iterator[Finish]:
    for index, experts in enumerate(sizes.checked):
        for shape in feed_forward_legs(*experts, sizes.dtype):
            yield begin_leg(pool, shape, every_block=not index)
        yield begin_experts(pool, experts, sizes.dtype)
    for experts in sizes.checked_float32:
        for shape in feed_forward_legs(*experts, "float32"):
            yield begin_leg(pool, shape)
    for heads in sizes.attentions:
        yield parity_attention.begin(pool, heads, sizes.dtype)


def begin_leg(pool: Executor, shape: LegShape, *, every_block: bool = False) -> Finish:
    """Compile the choices of a leg, of our blocks the default one or all; return what checks them.

    All are checked on the first kind of groups, one of every backend on the others.
    """
    arguments = jax.eval_shape(lambda: operands(shape))
    # Foreign kernels round float32, and are not used for it.
    tried = choices(shape, (OURS,) if shape.dtype == "float32" else available())
    tried = tried if every_block else one_of_every_backend(tried)
    compiled = {choice: pool.submit(compile_choice, shape, choice, arguments) for choice in tried}
    exact = pool.submit(compile_in_float64, run_of(shape, PLAIN), arguments)
    return functools.partial(_check_leg, shape, compiled, exact)


def one_of_every_backend(tried: Sequence[Choice]) -> list[Choice]:
    """The first of each."""
    return list({choice.backend: choice for choice in reversed(tried)}.values())[::-1]


def _check_leg(
    shape: LegShape,
    compiled: Mapping[Choice, Future[Run | str]],
    exact: Future[Run],
    record: Record,
) -> None:
    arguments, tried = operands(shape), list(compiled)
    for name, counts in kinds_of_groups(shape).items():
        given = with_groups(shape, arguments, counts)
        expected = in_float64(exact.result(), given)
        for choice in tried:
            error = _checked(compiled[choice].result(), given, expected, shape)
            _add(record, shape, name, described(choice), choice.backend in CANDIDATES, error)
        tried = one_of_every_backend(tried)


def _checked(run: Run | str, given: Operands, expected: Any, shape: LegShape) -> Error | str:
    if isinstance(run, str):
        return run
    try:
        return error_of_leg(shape, given[2], run(*given), expected)
    except jax.errors.JaxRuntimeError as error:
        return one_line(error)


def _add(
    record: Record, shape: LegShape, groups: str, by: str, ours: bool, error: Error | str
) -> None:
    of_result = "float32" if shape.leg == "to_weights" else shape.dtype
    tolerance = TOLERANCES[shape.dtype, of_result]
    found = {"what": shape.leg, **shape._asdict(), "groups": groups, "by": by}
    if isinstance(error, str):
        record.add(**found, result=FAIL if ours else NONE, reason=error)
    else:
        record.add(**found, **verdict(error, tolerance))


def begin_experts(pool: Executor, experts: Experts, dtype: str) -> Finish:
    """Compile whole experts, as models run them; return what checks output and gradients."""
    setting = Setting(experts.rows // 2, 2, experts.d_model, dtype, "auto", 0)
    ours = functools.partial(grouped_feed_forward, activation="swiglu")

    def make() -> Operands:
        return make_arguments(setting, min(experts.experts, 64), experts.d_expert)

    def plain(rows: Any, counts: Any, weights: Any) -> Any:
        return composed_feed_forward(PLAIN, rows, counts, weights, get_activation("swiglu"))

    right, tried = (functools.partial(forward_and_backward, form) for form in (plain, ours))
    shapes = jax.eval_shape(make)
    exact = pool.submit(compile_in_float64, right, shapes)
    compiled = pool.submit(compile_run, tried, shapes)

    def finish(record: Record) -> None:
        arguments, found = make(), {**experts._asdict(), "by": "auto", "dtype": dtype}
        expected = in_float64(exact.result(), arguments)
        try:
            errors = list(_errors(compiled.result()(*arguments), expected))
        except FAILURES as error:
            record.add(what="experts", **found, result=FAIL, reason=one_line(error))
            return
        limit = IN_A_ROW * TOLERANCES[dtype, dtype]
        for name, error in zip(EXPERTS, errors, strict=True):
            record.add(what=f"experts: {name}", **found, **verdict(error, limit))

    return finish


def _errors(results: Any, exact: Any) -> Iterator[Error]:
    for pair in zip(jax.tree.leaves(results), jax.tree.leaves(exact), strict=True):
        yield error_of(*pair)
