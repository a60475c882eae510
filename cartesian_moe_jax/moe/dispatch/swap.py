"""Rows in chunks of any size from every device to every other: ragged all-to-all."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Shaped

from cartesian_moe_jax.moe.dispatch.sort import take
from cartesian_moe_jax.platform import target_platform


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


def ragged_swap(
    rows: Shaped[Array, "rows ..."],
    output: Shaped[Array, "received ..."],
    chunks: Chunks,
    axis: str,
) -> Shaped[Array, "received ..."]:
    """Return ``output`` with the chunks that come to this device written into it."""
    me = jax.lax.axis_index(axis)
    if target_platform() == "cpu":
        return _emulated(rows, output, chunks, axis, me)
    return jax.lax.ragged_all_to_all(
        rows,
        output,
        chunks.sent_from[me],
        chunks.sizes[me],
        chunks.sent_to[me],
        chunks.sizes[:, me],
        axis_name=axis,
    )


def _emulated(
    rows: Shaped[Array, "rows ..."],
    output: Shaped[Array, "received ..."],
    chunks: Chunks,
    axis: str,
    me: Int[Array, ""],
) -> Shaped[Array, "received ..."]:
    """The same from a gather of all rows: XLA:CPU has no ragged all-to-all."""
    every = jax.lax.all_gather(rows, axis, axis=0, tiled=True)
    first, size = chunks.sent_to[:, me], chunks.sizes[:, me]
    row = jnp.arange(output.shape[0])[:, None]
    is_in = (row >= first) & (row < first + size)
    source = jnp.argmax(is_in, axis=1)
    index = source * rows.shape[0] + row[:, 0] - first[source] + chunks.sent_from[source, me]
    found = jnp.any(is_in, axis=1)
    values = take(every, jnp.where(found, index, every.shape[0]), holes=True)
    shape = (-1,) + (1,) * (output.ndim - 1)
    return jnp.where(found.reshape(shape), values, output)
