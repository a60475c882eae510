"""Kernels whose results are rows, called as one opaque operation that finishes its products."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from cartesian_moe_jax.kernels.composed import Finish, as_they_are, finished
from cartesian_moe_jax.kernels.in_kernels import in_kernels
from cartesian_moe_jax.kernels.opaque_call import opaque_call

Like = tuple[jax.ShapeDtypeStruct, ...]
ProductKernel = Callable[..., tuple[Float[Array, "rows outputs"], ...]]
"""kernel(operands, weights, group_sizes, beside, like, finish, transposed, **settings).

It returns finish(*sums, *beside), like `like`: of several operands one sum, of one operand a sum
for each of its weights, which are (experts, summed, outputs), or if `transposed` (experts,
outputs, summed). Hashable.
"""


def number_of_sums(operands: Sequence[Any], weights: Sequence[Any]) -> int:
    """Several operands are added up; of one, each weight gives a sum of its own."""
    return len(weights) if len(operands) == 1 else 1


def call_finished(
    kernel: ProductKernel,
    operands: tuple[Float[Array, "rows summed"], ...],
    weights: tuple[Float[Array, "experts ..."], ...],
    group_sizes: Int[Array, "experts"],
    finish: Finish,
    beside: tuple[Float[Array, "rows outputs"], ...],
    transposed: bool,
    **settings: Hashable,
) -> tuple[Float[Array, "rows outputs"], ...]:
    """The kernel's results; what it cannot finish, XLA does in a second pass."""
    rows, dtype = operands[0].shape[0], operands[0].dtype
    arguments = number_of_sums(operands, weights) + len(beside)
    if not in_kernels(finish, arguments):
        bare = call_finished(
            kernel, operands, weights, group_sizes, as_they_are, (), transposed, **settings
        )
        return finished(finish, (*bare, *beside), dtype)
    one = jax.ShapeDtypeStruct((rows, weights[0].shape[1 if transposed else 2]), jnp.float32)
    results = jax.eval_shape(finish, *[one] * arguments)
    like = tuple(each.update(dtype=dtype) for each in results)
    return opaque_call(
        _run,
        like,
        *operands,
        *beside,
        group_sizes,
        *weights,
        kernel=kernel,
        split=(len(operands), len(operands) + len(beside)),
        like=like,
        finish=finish,
        transposed=transposed,
        settings=tuple(settings.items()),
    )


def _run(
    *arrays: Num[Array, "..."],
    kernel: ProductKernel,
    split: tuple[int, int],
    like: Like,
    finish: Finish,
    transposed: bool,
    settings: tuple[tuple[str, Hashable], ...],
) -> tuple[Float[Array, "rows outputs"], ...]:
    operands, beside = arrays[: split[0]], arrays[split[0] : split[1]]
    group_sizes, *weights = arrays[split[1] :]
    return kernel(
        operands, weights, group_sizes, beside, like, finish, transposed, **dict(settings)
    )
