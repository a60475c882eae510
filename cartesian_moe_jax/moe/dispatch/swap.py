"""Rows in chunks of any size from every device to every other: ragged all-to-all."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from cartesian_moe_jax.moe.dispatch.sort import take
from cartesian_moe_jax.platform import target_platform
from cartesian_moe_jax.varying import vary_alike


class Chunks(NamedTuple):
    """Chunk [p, q] goes from device p to device q; all devices know all of them."""

    sizes: Int[Array, "devices devices"]
    sent_from: Int[Array, "devices devices"]
    """First row of the chunk on p."""
    sent_to: Int[Array, "devices devices"]
    """First row of the chunk on q."""

    @classmethod
    def of(cls, wanted: Int[Array, "devices devices"], most: int) -> "Chunks":
        """Return what travels of ``wanted`` rows, laid out by q on p, where q takes ``most``."""
        ends = jnp.minimum(jnp.cumsum(wanted, axis=0), most)
        sizes = jnp.diff(ends, axis=0, prepend=jnp.zeros_like(ends[:1]))
        return cls(sizes, jnp.cumsum(wanted, axis=1) - wanted, ends - sizes)

    def returning(self) -> "Chunks":
        """Return the way back."""
        return Chunks(self.sizes.T, self.sent_to.T, self.sent_from.T)

    def travels(
        self, position: Int[Array, "tokens slots"], device: Int[Array, ""]
    ) -> Bool[Array, "tokens slots"]:
        """Say which rows of ``device`` are in one of its chunks."""
        first, last = self.sent_from[device], (self.sent_from + self.sizes)[device]
        row = position[..., None]
        return jnp.any((row >= first) & (row < last), axis=-1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def ragged_swap(
    rows: Shaped[Array, "rows ..."], chunks: Chunks, size: int, axis: str
) -> Shaped[Array, "received ..."]:
    """Return the chunks that come to this device, in ``size`` rows; zeros elsewhere."""
    me = jax.lax.axis_index(axis)
    if target_platform() == "cpu":
        return _emulated(rows, chunks, size, axis, me)
    output = jnp.zeros((size, *rows.shape[1:]), rows.dtype)
    place = (chunks.sent_from[me], chunks.sizes[me], chunks.sent_to[me], chunks.sizes[:, me])
    rows, output, place = vary_alike((rows, output, place))
    return jax.lax.ragged_all_to_all(rows, output, *place, axis_name=axis)


def _forward(
    rows: Shaped[Array, "rows ..."], chunks: Chunks, size: int, axis: str
) -> tuple[Shaped[Array, "received ..."], tuple[Chunks, Shaped[Array, "rows 0"]]]:
    # An array without elements remembers how many rows there were.
    return ragged_swap(rows, chunks, size, axis), (chunks, rows.reshape(len(rows), -1)[:, :0])


def _backward(
    size: int,
    axis: str,
    residuals: tuple[Chunks, Shaped[Array, "rows 0"]],
    gradient: Float[Array, "received ..."],
) -> tuple[Float[Array, "rows ..."], None]:
    chunks, like = residuals
    return ragged_swap(gradient, chunks.returning(), len(like), axis), None


ragged_swap.defvjp(_forward, _backward)


def _emulated(
    rows: Shaped[Array, "rows ..."], chunks: Chunks, size: int, axis: str, me: Int[Array, ""]
) -> Shaped[Array, "received ..."]:
    """The same from a gather of all rows: XLA:CPU has no ragged all-to-all."""
    every = jax.lax.all_gather(rows, axis, axis=0, tiled=True)
    first, sizes = chunks.sent_to[:, me], chunks.sizes[:, me]
    row = jnp.arange(size)[:, None]
    is_in = (row >= first) & (row < first + sizes)
    source = jnp.argmax(is_in, axis=1)
    index = source * len(rows) + row[:, 0] - first[source] + chunks.sent_from[source, me]
    return take(every, jnp.where(jnp.any(is_in, axis=1), index, len(every)), holes=True)
