"""Pallas kernels, those that jax ships and our own, made fit for `jax.shard_map`."""

import functools
from collections.abc import Callable, Hashable

import jax

# No public switch turns the check off for a part of a shard_map.
from jax._src.config import _check_vma as _check_varying
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jax.sharding import PartitionSpec
from jaxtyping import Array, Num

Kernel = Callable[..., tuple[Num[Array, "..."], ...]]
Results = tuple[jax.ShapeDtypeStruct, ...]
Settings = tuple[tuple[str, Hashable], ...]

_call = Primitive("opaque_call")
_call.multiple_results = True


def opaque_call(
    kernel: Kernel, results: Results, /, *arrays: Num[Array, "..."], **settings: Hashable
) -> tuple[Num[Array, "..."], ...]:
    """kernel(*arrays, **settings): like `results`, and varying as the first of `arrays` does.

    Pallas kernels do not say over which mesh axes their results vary, and `jax.shard_map` refuses
    such ones while it checks. So the call stays one opaque operation until it is lowered, where
    nothing is left to check. It has no gradient: use it inside of a custom one. Under vmap it runs
    once for each element, one after the other.
    """
    settings_of = tuple(settings.items())
    return tuple(_call.bind(*arrays, kernel=kernel, results=results, settings=settings_of))


@_call.def_abstract_eval
def _results(
    first: jax.core.ShapedArray,
    *_: jax.core.ShapedArray,
    kernel: Kernel,
    results: Results,
    settings: Settings,
) -> list[jax.core.ShapedArray]:
    def like(result: jax.ShapeDtypeStruct) -> jax.core.ShapedArray:
        sharding = first.sharding.update(spec=PartitionSpec(*(None,) * len(result.shape)))
        return first.update(
            shape=result.shape, dtype=result.dtype, sharding=sharding, weak_type=False
        )

    return [like(result) for result in results]


@_call.def_impl
@functools.partial(jax.jit, static_argnames=("kernel", "results", "settings"))
def _run(
    *arrays: Num[Array, "..."], kernel: Kernel, results: Results, settings: Settings
) -> list[Num[Array, "..."]]:
    return _call.bind(*arrays, kernel=kernel, results=results, settings=settings)


def _one_by_one(arrays, dims, **parameters):
    size = next(a.shape[d] for a, d in zip(arrays, dims, strict=True) if d is not None)
    stacked = [batching.bdim_at_front(a, d, size) for a, d in zip(arrays, dims, strict=True)]
    results = jax.lax.map(lambda each: _call.bind(*each, **parameters), stacked)
    return results, [0] * len(results)


batching.primitive_batchers[_call] = _one_by_one


def _unchecked(
    *arrays: Num[Array, "..."], kernel: Kernel, results: Results, settings: Settings
) -> list[Num[Array, "..."]]:
    with _check_varying(False):
        return list(kernel(*arrays, **dict(settings)))


mlir.register_lowering(_call, mlir.lower_fun(_unchecked, multiple_results=True))
