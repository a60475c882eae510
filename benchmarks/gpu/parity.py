"""Is what the kernels compute right? Each leg, whole experts, attention, against float64.

At the first shape every block that a leg can be computed with is checked, at the others the default
one, on groups that no tile fits: unaligned, empty, of one row, one for nearly all rows. Rows that
belong to no group hold NaN.
"""

import functools
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from benchmarks.experts import Setting, forward_and_backward, make_arguments
from benchmarks.gpu import parity_attention
from benchmarks.gpu.context import Context
from benchmarks.gpu.errors import (
    FAIL,
    IN_A_ROW,
    NONE,
    TOLERANCES,
    Error,
    error_of,
    verdict,
)
from benchmarks.gpu.record import Record
from benchmarks.gpu.sizes import Experts
from cartesian_moe_jax.kernels import grouped_feed_forward
from cartesian_moe_jax.kernels.activations import get_activation
from cartesian_moe_jax.kernels.blocks import LegShape
from cartesian_moe_jax.kernels.by_leg import CANDIDATES, OURS, available
from cartesian_moe_jax.kernels.composed import composed_feed_forward, is_live
from cartesian_moe_jax.kernels.leg_trials import (
    Operands,
    Run,
    feed_forward_legs,
    group_sizes,
    operands,
    run_of,
)
from cartesian_moe_jax.kernels.plain import PLAIN
from cartesian_moe_jax.kernels.tuning import choices, compile_choice, described, one_line


def run(context: Context) -> None:
    """Check legs, experts and attention."""
    sizes, record = context.sizes, context.record
    for index, experts in enumerate(sizes.checked):
        for shape in feed_forward_legs(*experts, sizes.dtype):
            check_leg(shape, record, every_block=not index)
        check_experts(experts, sizes.dtype, record)
    for experts in sizes.checked_float32:
        for shape in feed_forward_legs(*experts, "float32"):
            check_leg(shape, record)
    for heads in sizes.attentions:
        parity_attention.check(heads, sizes.dtype, record)


def check_leg(shape: LegShape, record: Record, *, every_block: bool = False) -> None:
    """Check the choices of a leg on all kinds of groups; of our blocks the default one or all."""
    arguments = operands(shape)
    # Foreign kernels round float32, and are not used for it.
    tried = choices(shape, (OURS,) if shape.dtype == "float32" else available())
    if not every_block:
        tried = list({choice.backend: choice for choice in reversed(tried)}.values())[::-1]
    with ThreadPoolExecutor(16) as pool:
        compiled = list(pool.map(lambda choice: compile_choice(shape, choice, arguments), tried))
    exact = jax.jit(run_of(shape, PLAIN))
    for name, counts in kinds_of_groups(shape).items():
        given = with_groups(shape, arguments, counts)
        expected = in_float64(exact, given)
        for choice, leg in zip(tried, compiled, strict=True):
            error = _checked(leg, given, expected, shape)
            _add(record, shape, name, described(choice), choice.backend in CANDIDATES, error)


def kinds_of_groups(shape: LegShape) -> Mapping[str, Int[Array, "experts"]]:
    """Group sizes by name; in all but the first, some rows belong to no group."""
    experts, rows = shape.experts, shape.rows
    sparse = np.zeros(experts, np.int32)
    sparse[::3], sparse[1] = 1, rows // 2 + 1  # every third has one row, most others none
    hot = np.arange(experts, dtype=np.int32) % 4
    hot[experts // 2] = rows - hot.sum() - 7
    return {
        "unaligned": group_sizes(shape),
        "single rows, empty": jnp.asarray(sparse),
        "one hot": jnp.asarray(hot),
    }


def with_groups(shape: LegShape, arguments: Operands, counts: Int[Array, "experts"]) -> Operands:
    """The operands with other groups, and NaN in every row that belongs to none."""
    live = is_live(shape.rows, counts)
    by_row = (0, 1) if shape.leg == "to_weights" else (0, 3)

    def spoiled(operand: Any) -> Any:
        return jax.tree.map(lambda array: jnp.where(live, array, jnp.nan), operand)

    spoilt = tuple(spoiled(a) if i in by_row else a for i, a in enumerate(arguments))
    return (*spoilt[:2], counts, *spoilt[3:])


def in_float64(function: Run, arguments: Operands) -> Any:
    """The function's result, computed in float64 of operands that are cast up."""
    with jax.enable_x64(True):

        def wide(array: Array) -> Array:
            floating = jnp.issubdtype(array.dtype, jnp.floating)
            return array.astype(jnp.float64) if floating else array

        return jax.block_until_ready(function(*jax.tree.map(wide, arguments)))


def _checked(run: Run | str, given: Operands, expected: Any, shape: LegShape) -> Error | str:
    if isinstance(run, str):
        return run
    counts = given[2]
    live = None if shape.leg == "to_weights" else is_live(shape.rows, counts)[:, 0]
    try:
        results = run(*given)
        pairs = zip(jax.tree.leaves(results), jax.tree.leaves(expected), strict=True)
        errors = [error_of(result, exact, live) for result, exact in pairs]
    except jax.errors.JaxRuntimeError as error:
        return one_line(error)
    return Error(*map(max, zip(*errors, strict=True)))


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


def check_experts(experts: Experts, dtype: str, record: Record) -> None:
    """Check whole experts, as models run them: the output and all gradients."""
    setting = Setting(experts.rows // 2, 2, experts.d_model, dtype, "auto", 0)
    arguments = make_arguments(setting, min(experts.experts, 64), experts.d_expert)
    ours = functools.partial(grouped_feed_forward, activation="swiglu")

    def plain(rows: Any, counts: Any, weights: Any) -> Any:
        return composed_feed_forward(PLAIN, rows, counts, weights, get_activation("swiglu"))

    exact = in_float64(jax.jit(functools.partial(forward_and_backward, plain)), arguments)
    result = jax.jit(functools.partial(forward_and_backward, ours))(*arguments)
    names = ("output", "d rows", "d gate", "d up", "d down")
    for name, error in zip(names, _errors(result, exact), strict=True):
        found = {"what": f"experts: {name}", **experts._asdict(), "by": "auto", "dtype": dtype}
        record.add(**found, **verdict(error, IN_A_ROW * TOLERANCES[dtype, dtype]))


def _errors(results: Any, exact: Any) -> Iterator[Error]:
    for pair in zip(jax.tree.leaves(results), jax.tree.leaves(exact), strict=True):
        yield error_of(*pair)
