"""The chunked loss against a plain log-softmax, and the memory that it saves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cartesian_moe_jax.models.cross_entropy import mean_token_loss, token_losses, token_scores

BATCH, SEQ, D_MODEL, VOCAB = 2, 10, 6, 33


def plain_losses(hidden, head, targets):
    log_probabilities = jax.nn.log_softmax((hidden @ head).astype(jnp.float32))
    return -jnp.take_along_axis(log_probabilities, targets[..., None], axis=-1)[..., 0]


def inputs():
    keys = jax.random.split(jax.random.key(0), 4)
    hidden = 3 * jax.random.normal(keys[0], (BATCH, SEQ, D_MODEL))
    head = jax.random.normal(keys[1], (D_MODEL, VOCAB))
    targets = jax.random.randint(keys[2], (BATCH, SEQ), 0, VOCAB)
    return hidden, head, targets, jax.random.normal(keys[3], (BATCH, SEQ))


def losses_and_gradients(losses_of):
    """The losses, and the gradients of their sum under weights that tell positions apart."""
    hidden, head, targets, weights = inputs()

    def total(hidden, head):
        losses = losses_of(hidden, head, targets)
        return jnp.sum(losses * weights), losses

    gradients, losses = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))(hidden, head)
    return losses, *gradients


@pytest.mark.parametrize("chunk", [1, 4, 5, 10, 512])
def test_values_and_gradients(chunk):
    ours = losses_and_gradients(lambda h, w, t: token_losses(h, w, t, chunk))
    for a, b in zip(ours, losses_and_gradients(plain_losses), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 4, 5, 10, 512])
def test_mean_and_its_gradients(chunk):
    hidden, head, targets, _ = inputs()

    def scaled(mean_of):
        return jax.jit(jax.value_and_grad(lambda h, w: 3 * mean_of(h, w), argnums=(0, 1)))

    value, gradients = scaled(lambda h, w: mean_token_loss(h, w, targets, chunk))(hidden, head)
    plain = scaled(lambda h, w: jnp.mean(plain_losses(h, w, targets)))(hidden, head)
    for a, b in zip((value, *gradients), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert float(mean_token_loss(hidden, head, targets, chunk)) == pytest.approx(float(value / 3))


def test_bfloat16_hidden_states_give_gradients_close_to_those_of_float32():
    hidden, head, targets, _ = inputs()
    gradients = jax.grad(lambda h, w: mean_token_loss(h, w, targets, 4), argnums=(0, 1))
    d_hidden, d_head = gradients(hidden.astype(jnp.bfloat16), head)
    assert (d_hidden.dtype, d_head.dtype) == (jnp.bfloat16, jnp.float32)
    for ours, exact in zip((d_hidden, d_head), gradients(hidden, head), strict=True):
        error = jnp.linalg.norm(ours.astype(jnp.float32) - exact) / jnp.linalg.norm(exact)
        assert error < 0.02


def test_a_head_of_zeros_gives_the_logarithm_of_the_vocabulary():
    hidden, head, targets, _ = inputs()
    losses = token_losses(hidden, jnp.zeros_like(head), targets, chunk=4)
    np.testing.assert_allclose(losses, np.full((BATCH, SEQ), np.log(VOCAB)), rtol=1e-6)


def test_bfloat16_hidden_states_give_float32_losses():
    hidden, head, targets, _ = inputs()
    losses = token_losses(hidden.astype(jnp.bfloat16), head, targets, chunk=4)
    assert losses.dtype == jnp.float32
    np.testing.assert_allclose(losses, plain_losses(hidden, head, targets), rtol=0.05, atol=0.2)


def temporary_bytes(loss_of, chunk, batch, seq, vocab):
    """What the compiled loss with its gradients needs beside arguments and results."""

    shapes = (
        jax.ShapeDtypeStruct((batch, seq, D_MODEL), jnp.float32),
        jax.ShapeDtypeStruct((D_MODEL, vocab), jnp.float32),
        jax.ShapeDtypeStruct((batch, seq), jnp.int32),
    )
    gradients = jax.value_and_grad(functools.partial(loss_of, chunk=chunk), argnums=(0, 1))
    compiled = jax.jit(gradients).lower(*shapes).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def mean_of_token_losses(hidden, head, targets, chunk):
    return jnp.mean(token_losses(hidden, head, targets, chunk))


@pytest.mark.parametrize("loss_of", [mean_token_loss, mean_of_token_losses])
def test_the_logits_of_a_large_vocabulary_never_exist_whole(loss_of):
    batch, seq, vocab = 2, 512, 32_000
    whole_logits = 4 * batch * seq * vocab
    assert temporary_bytes(loss_of, 8, batch, seq, vocab) < whole_logits / 10
    assert temporary_bytes(loss_of, seq, batch, seq, vocab) >= whole_logits


@pytest.mark.parametrize("chunk", [1, 4, 512])
@pytest.mark.parametrize("known", [VOCAB, 20])
def test_scores_of_tokens(chunk, known):
    hidden, head, targets, _ = inputs()
    likely = jnp.argmax((hidden @ head)[..., :known], axis=-1)
    targets = targets.at[0].set(likely[0])
    losses, most_likely = token_scores(hidden, head, targets, chunk, known)
    np.testing.assert_allclose(losses, plain_losses(hidden, head, targets), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(most_likely, targets == likely)
    assert most_likely[0].all() and not most_likely[1].all()


def test_of_equally_likely_tokens_the_first_counts():
    hidden, head, _, _ = inputs()
    same, targets = jnp.zeros_like(head), jnp.zeros((BATCH, SEQ), jnp.int32)
    assert token_scores(hidden, same, targets, 4, VOCAB).most_likely.all()
    assert not token_scores(hidden, same, targets + 1, 4, VOCAB).most_likely.any()


def test_what_is_no_number_is_not_most_likely():
    hidden, head, targets, _ = inputs()
    losses, most_likely = token_scores(hidden.at[0, 3].set(jnp.nan), head, targets, 4, VOCAB)
    assert jnp.isnan(losses[0, 3]) and not most_likely[0, 3]
