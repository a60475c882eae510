"""What attention keeps of texts, so that a further token costs no more than itself."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from cartesian_moe_jax.models.attend import attention_spec
from cartesian_moe_jax.parallel.mesh import current_mesh


class KeyValues(NamedTuple):
    """Keys, turned to their positions, and values, of one layer or of several alike."""

    key: Float[Array, "*layers batch seq heads d_head"]
    value: Float[Array, "*layers batch seq heads d_head"]

    def over_mesh(self) -> "KeyValues":
        """Return them laid out as attention wants them. Of one layer."""
        mesh, (batch, _, heads, _) = current_mesh(), self.key.shape
        if mesh.size == 1:
            return self
        spec = attention_spec(mesh, batch, heads)
        return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, spec), self)


class Past(NamedTuple):
    """What new tokens read in one layer, or in several alike: texts of their own lengths."""

    kept: KeyValues
    length: Int[Array, "*layers batch"]
    """How many positions of each text are filled; what lies behind is read by none."""


class KVCache(NamedTuple):
    """The past of all layers: room for as many positions of each text as ``KeyValues`` has."""

    segments: tuple[tuple[KeyValues, ...], ...]
    """By segment of the model, then by layer of its pattern, stacked [repeats, ...]."""
    length: Int[Array, "batch"]

    def past(self, segment: int) -> tuple[Past, ...]:
        """Return what one segment's layers read."""
        layers = self.segments[segment]
        repeats = layers[0].key.shape[0]
        length = jnp.broadcast_to(self.length, (repeats, *self.length.shape))
        return tuple(Past(kept, length) for kept in layers)

    def extended(self, new: tuple[tuple[KeyValues, ...], ...]) -> "KVCache":
        """Return the cache with the next position of each text; there must be room."""
        text = jnp.arange(self.length.shape[0])
        segments = jax.tree.map(
            lambda kept, added: kept.at[:, text, self.length].set(added[:, :, 0]),
            self.segments,
            new,
        )
        return KVCache(segments, self.length + 1)
