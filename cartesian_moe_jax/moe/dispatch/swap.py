"""Rows in chunks of any size from every device to every other: ragged all-to-all."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

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
        """Return what travels of ``wanted`` rows, laid out by q on p, where q takes ``most``.

        What does not fit stays behind, on every p the same share: the last rows of its chunk.
        """
        sizes = _shares(wanted, most)
        return cls(sizes, jnp.cumsum(wanted, axis=1) - wanted, jnp.cumsum(sizes, axis=0) - sizes)

    def returning(self) -> "Chunks":
        """Return the way back."""
        return Chunks(self.sizes.T, self.sent_to.T, self.sent_from.T)


def _shares(wanted: Int[Array, "from to"], most: int) -> Int[Array, "from to"]:
    """Cut each column down to a sum of ``most``, if it is more, every entry alike."""
    share = jnp.minimum(most / jnp.maximum(jnp.sum(wanted, axis=0), 1), 1)
    shares = jnp.floor(wanted * share).astype(wanted.dtype)
    # What rounding down has left over goes to the first that want more.
    left = most - jnp.sum(shares, axis=0)
    is_cut = shares < wanted
    return shares + (is_cut & (jnp.cumsum(is_cut, axis=0) <= left))


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
