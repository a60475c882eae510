"""Grouped feed-forward on GPU: every leg by what was measured to be fastest at its shape."""

import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from cartesian_moe_jax.kernels.activations import Activation
from cartesian_moe_jax.kernels.blocks import LOW, Block, LegShape, candidates, default_block
from cartesian_moe_jax.kernels.composed import Finish, GroupedMatmul, composed_feed_forward
from cartesian_moe_jax.kernels.hopper import (
    hopper_candidates,
    hopper_fits,
    hopper_matmul,
    is_hopper,
)
from cartesian_moe_jax.kernels.hopper_teams import IN_TURNS
from cartesian_moe_jax.kernels.left_out import is_left_out
from cartesian_moe_jax.kernels.timings import Choice, fastest, timings_of
from cartesian_moe_jax.kernels.tokamax import is_installed, tokamax_matmul
from cartesian_moe_jax.kernels.triton import triton_matmul
from cartesian_moe_jax.kernels.weights import FeedForwardWeights
from cartesian_moe_jax.platform import device_kind

OURS, HOPPER, HOPPER_IN_TURNS = "triton", "hopper", "hopper_in_turns"

LEG_BACKENDS: Mapping[str, Callable[[Block | None], GroupedMatmul]] = MappingProxyType(
    {
        OURS: triton_matmul,
        HOPPER: hopper_matmul,
        HOPPER_IN_TURNS: functools.partial(hopper_matmul, teams=IN_TURNS),
        "tokamax_mosaic": lambda _: tokamax_matmul("mosaic_gpu"),
        "tokamax_triton": lambda _: tokamax_matmul("triton"),
    }
)
"""What a leg can be computed by, given the block that was chosen for it."""

CANDIDATES: Mapping[str, Callable[[LegShape], Sequence[Block]]] = MappingProxyType(
    {
        OURS: candidates,
        HOPPER: hopper_candidates,
        HOPPER_IN_TURNS: functools.partial(hopper_candidates, teams=IN_TURNS),
    }
)
"""The blocks to choose from, for those that do not choose themselves."""

_FITS: Mapping[str, Callable[[Block, LegShape], bool]] = MappingProxyType(
    {
        OURS: Block.fits,
        HOPPER: hopper_fits,
        HOPPER_IN_TURNS: functools.partial(hopper_fits, teams=IN_TURNS),
    }
)


def available() -> tuple[str, ...]:
    """The names in LEG_BACKENDS that work here and are wanted."""
    others = [name for name in LEG_BACKENDS if name not in CANDIDATES]
    found = (*[HOPPER, HOPPER_IN_TURNS] * is_hopper(), *others * is_installed())
    return (OURS, *[name for name in found if not is_left_out(name)])


def fits(choice: Choice, shape: LegShape) -> bool:
    """Whether a choice made for one shape can compute another."""
    return choice.block is None or _FITS[choice.backend](choice.block, shape)


def choose(shape: LegShape, backends: Sequence[str]) -> Choice:
    """The fastest of `backends` by the timings of the GPU at hand, unmeasured the default."""
    measured = fastest(timings_of(device_kind()), shape, backends, fits)
    return measured or default(shape, backends)


def default(shape: LegShape, backends: Sequence[str]) -> Choice:
    """Hopper's own kernels, the fastest at every shape measured on an H200; else Triton's.

    Also where experts have so few rows that Triton takes low tiles: Hopper's would be empty.
    """
    low = default_block(shape)
    blocks = hopper_candidates(shape) if HOPPER in backends and low.rows > LOW else ()
    return Choice(HOPPER, blocks[0]) if blocks else Choice(OURS, low)


@functools.cache
def matmul_by_leg(backends: Callable[[], Sequence[str]], used: int | None = None) -> GroupedMatmul:
    """A grouped matmul that chooses among `backends` anew for every leg and shape.

    ``used``: how many experts can have rows, if not all; what is chosen depends on their loads.
    """

    def matmul(leg: str, rows: int, experts: int, *others: str | int) -> GroupedMatmul:
        choice = choose(LegShape(leg, rows, used or experts, *others), backends())
        return LEG_BACKENDS[choice.backend](choice.block)

    def forward(
        rows: Float[Array, "rows inputs"],
        weights: tuple[Float[Array, "experts inputs outputs"], ...],
        group_sizes: Int[Array, "experts"],
        finish: Finish,
    ) -> tuple[Float[Array, "rows outputs"], ...]:
        sizes = rows.shape[0], *weights[0].shape
        chosen = matmul("forward", *sizes, len(weights), rows.dtype.name)
        return chosen.forward(rows, weights, group_sizes, finish)

    def to_rows(
        d_outputs: tuple[Float[Array, "rows outputs"], ...],
        weights: tuple[Float[Array, "experts inputs outputs"], ...],
        group_sizes: Int[Array, "experts"],
        finish: Finish,
        *beside: Float[Array, "rows inputs"],
    ) -> tuple[Float[Array, "rows inputs"], ...]:
        sizes = d_outputs[0].shape[0], *weights[0].shape
        chosen = matmul("to_rows", *sizes, len(weights), d_outputs[0].dtype.name)
        return chosen.to_rows(d_outputs, weights, group_sizes, finish, *beside)

    def to_weights(
        rows: Float[Array, "rows inputs"],
        d_outputs: Float[Array, "rows outputs"],
        group_sizes: Int[Array, "experts"],
        dtype: DTypeLike,
    ) -> Float[Array, "experts inputs outputs"]:
        sizes = rows.shape[0], group_sizes.shape[0], rows.shape[1], d_outputs.shape[1]
        chosen = matmul("to_weights", *sizes, 1, rows.dtype.name)
        return chosen.to_weights(rows, d_outputs, group_sizes, dtype)

    return GroupedMatmul(forward, to_rows, to_weights)


def _feed_forward(
    backends: Callable[[], Sequence[str]],
    rows: Float[Array, "rows d_model"],
    group_sizes: Int[Array, "experts"],
    weights: FeedForwardWeights,
    activation: Activation,
    used: int | None = None,
) -> Float[Array, "rows d_model"]:
    matmul = matmul_by_leg(backends, used)
    return composed_feed_forward(matmul, rows, group_sizes, weights, activation)


def _ours() -> tuple[str, ...]:
    return (OURS,)


by_leg_feed_forward = functools.partial(_feed_forward, available)
triton_feed_forward = functools.partial(_feed_forward, _ours)
