"""Next-token cross-entropy in chunks: the logits of a large vocabulary never exist whole."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from cartesian_moe_jax.varying import vary, varying_axes


class Chunk(NamedTuple):
    """A stretch of every sequence; or all of them, with an axis more in front.

    The sequence axis is cut, since the batch is sharded. ``weight`` is 1 where there is a
    position, 0 in the padding of the last chunk.
    """

    hidden: Float[Array, "*chunks batch chunk d_model"]
    targets: Int[Array, "*chunks batch chunk"]
    weight: Float[Array, "*chunks chunk"]


def token_losses(
    hidden: Float[Array, "batch seq d_model"],
    head: Float[Array, "d_model vocab"],
    targets: Int[Array, "batch seq"],
    chunk: int,
) -> Float[Array, "batch seq"]:
    """Return -log p(target) in nats, float32, for every position.

    ``chunk`` positions of each sequence have logits at one time, forward and backward (the
    backward pass computes them again).
    """

    @jax.checkpoint
    def losses_of_chunk(chunk: Chunk) -> Float[Array, "batch chunk"]:
        logits = _logits(chunk.hidden, head)
        is_target = _is_target(chunk.targets, logits)
        return jax.nn.logsumexp(logits, axis=-1) - _at_target(logits, is_target)

    losses = jax.lax.map(losses_of_chunk, _cut(hidden, targets, chunk))
    return _joined(losses, hidden.shape[1])


class TokenScores(NamedTuple):
    """What a model says of tokens that are given."""

    losses: Float[Array, "batch seq"]
    """-log p(target) in nats, float32."""
    most_likely: Bool[Array, "batch seq"]
    """Whether no other token is more likely; of equals the first counts."""


def token_scores(
    hidden: Float[Array, "batch seq d_model"],
    head: Float[Array, "d_model vocab"],
    targets: Int[Array, "batch seq"],
    chunk: int,
    known: int,
) -> TokenScores:
    """Return ``token_losses``, and whether each target is the most likely token.

    ``known``: only the first so many tokens can be that, the rest of a padded vocabulary means
    nothing. Without gradients.
    """

    def scores_of_chunk(chunk: Chunk) -> TokenScores:
        logits = _logits(chunk.hidden, head)
        at_target = _at_target(logits, _is_target(chunk.targets, logits))
        token = jnp.arange(logits.shape[-1])
        # Comparisons, not an argmax: XLA:CPU searches one value at a time.
        wins_ties = token < chunk.targets[..., None]
        better = (logits > at_target[..., None]) | (logits == at_target[..., None]) & wins_ties
        losses = jax.nn.logsumexp(logits, axis=-1) - at_target
        most_likely = ~jnp.any(better & (token < known), axis=-1) & (chunk.targets < known)
        most_likely &= ~jnp.isnan(losses)  # of which all comparisons are false
        return TokenScores(losses, most_likely)

    scores = jax.lax.map(scores_of_chunk, _cut(hidden, targets, chunk))
    return TokenScores(*(_joined(part, hidden.shape[1]) for part in scores))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def mean_token_loss(
    hidden: Float[Array, "batch seq d_model"],
    head: Float[Array, "d_model vocab"],
    targets: Int[Array, "batch seq"],
    chunk: int,
) -> Float[Array, ""]:
    """Return the mean of ``token_losses``, whose gradients cost no second look at the logits.

    Every position weighs the same, so the gradients are known, but for a factor, when a chunk's
    logits are there: three products with the head in place of four.
    """
    return jnp.mean(token_losses(hidden, head, targets, chunk))


def _forward(
    hidden: Float[Array, "batch seq d_model"],
    head: Float[Array, "d_model vocab"],
    targets: Int[Array, "batch seq"],
    chunk: int,
) -> tuple[
    Float[Array, ""], tuple[Float[Array, "batch seq d_model"], Float[Array, "d_model vocab"]]
]:
    batch, seq, d_model = hidden.shape

    def add(total: tuple[Float[Array, ""], Float[Array, "d_model vocab"]], chunk: Chunk):
        loss, d_hidden, d_head = _chunk_gradients(chunk, head)
        return (total[0] + loss, total[1] + d_head), d_hidden

    zeros = [vary(jnp.zeros(s), varying_axes(hidden)) for s in ((), head.shape)]
    (loss, d_head), d_hidden = jax.lax.scan(add, tuple(zeros), _cut(hidden, targets, chunk))
    d_hidden = d_hidden.swapaxes(0, 1).reshape(batch, -1, d_model)[:, :seq]
    return loss / targets.size, (d_hidden, d_head.astype(head.dtype))


def _backward(
    chunk: int,
    gradients: tuple[Float[Array, "batch seq d_model"], Float[Array, "d_model vocab"]],
    d_loss: Float[Array, ""],
) -> tuple[Float[Array, "batch seq d_model"], Float[Array, "d_model vocab"], None]:
    d_hidden, d_head = gradients
    scale = d_loss / (d_hidden.shape[0] * d_hidden.shape[1])
    return (d_hidden * scale).astype(d_hidden.dtype), (d_head * scale).astype(d_head.dtype), None


mean_token_loss.defvjp(_forward, _backward)


def _chunk_gradients(
    chunk: Chunk, head: Float[Array, "d_model vocab"]
) -> tuple[Float[Array, ""], Float[Array, "batch chunk d_model"], Float[Array, "d_model vocab"]]:
    """Return the sum of a chunk's losses, and its gradients."""
    dtype = chunk.hidden.dtype
    logits = _logits(chunk.hidden, head)
    is_target = _is_target(chunk.targets, logits)
    log_sum = jax.nn.logsumexp(logits, axis=-1)
    loss = jnp.sum(chunk.weight * (log_sum - _at_target(logits, is_target)))
    d_logits = (jnp.exp(logits - log_sum[..., None]) - is_target) * chunk.weight[:, None]
    # Barriers: computed once for both products, and no operand transposed within a product,
    # which XLA:CPU multiplies slowly.
    d_logits, hidden_t = jax.lax.optimization_barrier(
        (d_logits.astype(dtype), jnp.moveaxis(chunk.hidden, -1, 0))
    )
    wide = jnp.float32
    d_hidden = jnp.einsum("bcv,dv->bcd", d_logits, head.astype(dtype), preferred_element_type=wide)
    d_head = jnp.einsum("dbc,bcv->dv", hidden_t, d_logits, preferred_element_type=wide)
    return loss, d_hidden.astype(dtype), d_head


def _cut(
    hidden: Float[Array, "batch seq d_model"], targets: Int[Array, "batch seq"], chunk: int
) -> Chunk:
    batch, seq, d_model = hidden.shape
    chunk = min(chunk, seq)
    pad = -seq % chunk
    hidden = jnp.pad(hidden, ((0, 0), (0, pad), (0, 0)))
    targets = jnp.pad(targets, ((0, 0), (0, pad)))
    return Chunk(
        hidden.reshape(batch, -1, chunk, d_model).swapaxes(0, 1),
        targets.reshape(batch, -1, chunk).swapaxes(0, 1),
        (jnp.arange(seq + pad) < seq).astype(jnp.float32).reshape(-1, chunk),
    )


def _joined(of_chunks: Shaped[Array, "chunks batch chunk"], seq: int) -> Shaped[Array, "batch seq"]:
    _, batch, _ = of_chunks.shape
    return of_chunks.swapaxes(0, 1).reshape(batch, -1)[:, :seq]


def _logits(
    hidden: Float[Array, "batch chunk d_model"], head: Float[Array, "d_model vocab"]
) -> Float[Array, "batch chunk vocab"]:
    return jnp.matmul(hidden, head.astype(hidden.dtype), preferred_element_type=jnp.float32)


def _is_target(
    targets: Int[Array, "batch chunk"], logits: Float[Array, "batch chunk vocab"]
) -> Bool[Array, "batch chunk vocab"]:
    # A comparison, not a gather: its gradient is elementwise, and a split vocabulary works.
    return targets[..., None] == jnp.arange(logits.shape[-1])


def _at_target(
    logits: Float[Array, "batch chunk vocab"], is_target: Bool[Array, "batch chunk vocab"]
) -> Float[Array, "batch chunk"]:
    return jnp.sum(jnp.where(is_target, logits, 0.0), axis=-1)
