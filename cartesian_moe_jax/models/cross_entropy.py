"""Next-token cross-entropy in chunks: the logits of a large vocabulary never exist whole."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def token_losses(
    hidden: Float[Array, "batch seq d_model"],
    head: Float[Array, "d_model vocab"],
    targets: Int[Array, "batch seq"],
    chunk: int,
) -> Float[Array, "batch seq"]:
    """Return -log p(target) in nats, float32, for every position.

    ``chunk`` positions of each sequence have logits at one time, forward and backward (the
    backward pass computes them again). The sequence axis is cut, since the batch is sharded.
    """
    batch, seq, d_model = hidden.shape
    chunk = min(chunk, seq)
    pad = -seq % chunk
    hidden = jnp.pad(hidden, ((0, 0), (0, pad), (0, 0)))
    targets = jnp.pad(targets, ((0, 0), (0, pad)))
    chunks = (
        hidden.reshape(batch, -1, chunk, d_model).swapaxes(0, 1),
        targets.reshape(batch, -1, chunk).swapaxes(0, 1),
    )

    @jax.checkpoint
    def losses_of_chunk(
        hidden: Float[Array, "batch chunk d_model"], targets: Int[Array, "batch chunk"]
    ) -> Float[Array, "batch chunk"]:
        logits = jnp.matmul(hidden, head.astype(hidden.dtype), preferred_element_type=jnp.float32)
        # A comparison, not a gather: its gradient is elementwise, and a split vocabulary works.
        is_target = targets[..., None] == jnp.arange(logits.shape[-1])
        at_target = jnp.sum(jnp.where(is_target, logits, 0.0), axis=-1)
        return jax.nn.logsumexp(logits, axis=-1) - at_target

    losses = jax.lax.map(lambda c: losses_of_chunk(*c), chunks)
    return losses.swapaxes(0, 1).reshape(batch, -1)[:, :seq]
