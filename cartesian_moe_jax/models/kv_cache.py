"""What attention keeps of texts, so that a further token costs no more than itself."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from cartesian_moe_jax.models.attend import attention_spec
from cartesian_moe_jax.parallel.mesh import current_mesh


class KeyValues(NamedTuple):
    """Keys, turned to their positions, and values, of one layer or of several alike.

    Heads come before positions, as the products with them want it: XLA would turn over the whole
    cache for every token.
    """

    key: Float[Array, "*layers batch heads seq d_head"]
    value: Float[Array, "*layers batch heads seq d_head"]

    @classmethod
    def of(
        cls,
        key: Float[Array, "batch seq heads d_head"],
        value: Float[Array, "batch seq heads d_head"],
    ) -> "KeyValues":
        """Return those of one layer."""
        return cls(jnp.swapaxes(key, 1, 2), jnp.swapaxes(value, 1, 2))

    def over_mesh(self) -> "KeyValues":
        """Return them laid out as attention wants them. Of one layer."""
        mesh, (batch, heads, _, _) = current_mesh(), self.key.shape
        if mesh.size == 1:
            return self
        batch_axes, _, head_axis = attention_spec(mesh, batch, heads)
        spec = PartitionSpec(batch_axes, head_axis)
        return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, spec), self)


class Past(NamedTuple):
    """What new tokens read in one layer, or in several alike."""

    kept: KeyValues
    is_filled: Bool[Array, "*layers batch seq"]
    """What else is kept may be anything finite."""
    position: Int[Array, "*layers batch"]
    """Of the first new token in its text."""


class KVCache(NamedTuple):
    """The past of all layers: of each text as many positions as ``KeyValues`` has room for.

    Texts end at one place, whatever their lengths, so that all grow there.
    """

    segments: tuple[tuple[KeyValues, ...], ...]
    """By segment of the model, then by layer of its pattern, stacked [repeats, ...]."""
    end: Int[Array, ""]
    length: Int[Array, "batch"]

    @classmethod
    def of(cls, read: tuple[tuple[KeyValues, ...], ...], length: Int[Array, "batch"]) -> "KVCache":
        """Return the cache of texts that were read from its first place on."""
        end = jnp.max(length)
        # What is moved out behind the last place comes in before the text, and is read by none.
        move = jax.vmap(functools.partial(jnp.roll, axis=-2), in_axes=(1, 0), out_axes=1)
        segments = jax.tree.map(lambda kept: move(kept, end - length), read)
        return cls(segments, end, length)

    def past(self, segment: int) -> tuple[Past, ...]:
        """Return what one segment's layers read."""
        layers = self.segments[segment]
        repeats, capacity = layers[0].key.shape[0], layers[0].key.shape[-2]
        place = jnp.arange(capacity)
        is_filled = (place < self.end) & (place >= self.end - self.length[:, None])
        same = is_filled, self.length
        is_filled, position = (jnp.broadcast_to(x, (repeats, *x.shape)) for x in same)
        return tuple(Past(kept, is_filled, position) for kept in layers)

    def extended(self, new: tuple[tuple[KeyValues, ...], ...]) -> "KVCache":
        """Return the cache with the next position of each text; there must be room."""
        segments = jax.tree.map(
            lambda kept, added: jax.lax.dynamic_update_slice_in_dim(kept, added, self.end, -2),
            self.segments,
            new,
        )
        return KVCache(segments, self.end + 1, self.length + 1)
