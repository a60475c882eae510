"""The feed-forward of many experts on rows sorted by expert, and its backends by name."""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.kernels.activations import Activation, get_activation
from cartesian_moe_jax.kernels.by_leg import by_leg_feed_forward, triton_feed_forward
from cartesian_moe_jax.kernels.megablox import megablox_feed_forward
from cartesian_moe_jax.kernels.mosaic import mosaic_feed_forward
from cartesian_moe_jax.kernels.native import native_feed_forward
from cartesian_moe_jax.kernels.native_library import native_library_problem
from cartesian_moe_jax.kernels.ragged import ragged_feed_forward
from cartesian_moe_jax.kernels.reference import reference_feed_forward
from cartesian_moe_jax.kernels.tiled import tiled_feed_forward
from cartesian_moe_jax.kernels.weights import FeedForwardWeights
from cartesian_moe_jax.platform import target_platform
from cartesian_moe_jax.varying import vary_alike

Backend = Callable[
    [Float[Array, "rows d_model"], Int[Array, "experts"], FeedForwardWeights, Activation],
    Float[Array, "rows d_model"],
]

BACKENDS: Mapping[str, Backend] = MappingProxyType(
    {
        "reference": reference_feed_forward,
        "native": native_feed_forward,
        "tiled": tiled_feed_forward,
        "mosaic": mosaic_feed_forward,
        "megablox": megablox_feed_forward,
        "triton": triton_feed_forward,
        "by_leg": by_leg_feed_forward,
        "ragged": ragged_feed_forward,
    }
)

BY_LOAD = (by_leg_feed_forward, triton_feed_forward)
"""Those that choose by how many rows an expert has, and are told how many can have any."""

BEST: Mapping[str, str] = MappingProxyType({"cpu": "native", "gpu": "by_leg", "tpu": "mosaic"})
"""The backend that "auto" means, by the platform that programs are compiled for.

On CPU it means "tiled" where there is no C++ compiler.
"""


def grouped_feed_forward(
    rows: Float[Array, "rows d_model"],
    group_sizes: Int[Array, "experts"],
    weights: FeedForwardWeights,
    *,
    activation: str,
    backend: str = "auto",
    first: Int[Array, ""] | None = None,
) -> Float[Array, "rows d_model"]:
    """Runs each expert on its group of rows.

    `rows` are sorted by expert: the first group_sizes[0] rows are those of expert 0, and so on.
    Groups may be empty. The first sum(group_sizes) <= `rows` rows are live; the rest may hold
    anything, is ignored, and comes out as zeros with zero gradient.

    The computation is in the dtype of `rows`, float32 or bfloat16; matmuls and the weight
    gradients accumulate in float32. `weights` may have another dtype, which is that of their
    gradients. Works inside `jax.shard_map`, on what each device holds.

    Args:
      rows: the inputs of the experts.
      group_sizes: number of rows of each expert.
      weights: the experts' weights; `weights.gate` is None unless the activation is gated.
      activation: a name in ACTIVATIONS.
      backend: a name in BACKENDS, or "auto" for the best one where the program will run.
      first: with it, `weights` are of more experts than `group_sizes`, whose first this is; the
        others have no rows.

    Raises:
      ValueError: if a name is unknown, or `weights.gate` does not fit the activation.
    """
    chosen = get_activation(activation)
    if chosen.gated != (weights.gate is not None):
        raise ValueError(
            f"weights.gate={'None' if weights.gate is None else 'array'}: "
            f"must be {'an array' if chosen.gated else 'None'} for activation={activation!r}"
        )
    run = get_backend(backend)
    if first is not None:
        run = functools.partial(run, used=group_sizes.shape[0]) if run in BY_LOAD else run
        others = jnp.zeros(weights.up.shape[0], group_sizes.dtype)
        group_sizes = jax.lax.dynamic_update_slice_in_dim(others, group_sizes, first, 0)
    rows, group_sizes, weights = vary_alike((rows, group_sizes, weights))
    return run(rows, group_sizes, weights, chosen)


def get_backend(name: str) -> Backend:
    """The backend called `name`.

    Raises ValueError if there is none, UserError if it cannot run on this machine.
    """
    chosen = BEST[target_platform()] if name == "auto" else name
    if chosen not in BACKENDS:
        raise ValueError(f"backend={name!r}: must be one of auto, {', '.join(BACKENDS)}")
    backend = BACKENDS[chosen]
    if backend is native_feed_forward and (problem := native_library_problem()):
        if name != "auto":
            raise UserError(f"config.model.moe.backend={name!r} cannot run here: {problem}")
        return tiled_feed_forward
    return backend
