"""The Pallas kernels that jax ships, made fit for `jax.shard_map`."""

import functools
from collections.abc import Callable, Hashable

import jax

# No public switch turns the check off for a part of a shard_map.
from jax._src.config import _check_vma as _check_varying
from jax.extend.core import Primitive
from jax.interpreters import mlir
from jax.sharding import PartitionSpec
from jaxtyping import Array, Num

Kernel = Callable[..., Num[Array, "..."]]
Settings = tuple[tuple[str, Hashable], ...]

_call = Primitive("library_kernel")


def call_library_kernel(
    kernel: Kernel,
    result: jax.ShapeDtypeStruct,
    *arrays: Num[Array, "..."],
    **settings: Hashable,
) -> Num[Array, "..."]:
    """kernel(*arrays, **settings): like `result`, and varying as the first of `arrays` does.

    The kernels that jax ships do not say over which mesh axes their results vary, and
    `jax.shard_map` refuses such ones while it checks. So the call stays one opaque operation
    until it is lowered, where nothing is left to check. It has no gradient, and no vmap: use it
    inside of a custom gradient.
    """
    return _call.bind(*arrays, kernel=kernel, result=result, settings=tuple(settings.items()))


@_call.def_abstract_eval
def _result(
    first: jax.core.ShapedArray,
    *_: jax.core.ShapedArray,
    kernel: Kernel,
    result: jax.ShapeDtypeStruct,
    settings: Settings,
) -> jax.core.ShapedArray:
    sharding = first.sharding.update(spec=PartitionSpec(*(None,) * len(result.shape)))
    return first.update(shape=result.shape, dtype=result.dtype, sharding=sharding, weak_type=False)


@_call.def_impl
@functools.partial(jax.jit, static_argnames=("kernel", "result", "settings"))
def _run(
    *arrays: Num[Array, "..."], kernel: Kernel, result: jax.ShapeDtypeStruct, settings: Settings
) -> Num[Array, "..."]:
    return _call.bind(*arrays, kernel=kernel, result=result, settings=settings)


def _unchecked(
    *arrays: Num[Array, "..."], kernel: Kernel, result: jax.ShapeDtypeStruct, settings: Settings
) -> Num[Array, "..."]:
    with _check_varying(False):
        return kernel(*arrays, **dict(settings))


mlir.register_lowering(_call, mlir.lower_fun(_unchecked, multiple_results=False))
