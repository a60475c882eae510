"""A whole model against the official implementation: hidden states, logits, loss."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cartesian_moe_jax.models.cross_entropy import token_losses
from cartesian_moe_jax.models.language_model import LanguageModel
from cartesian_moe_jax.models.parameters import with_parameters
from tests import official


def official_model():
    golden = official.load("cartesianmoe_model_cartesian_interleave")
    # Layers m d m are cut into three segments of one layer each.
    places = [(0, 0, 0), (1, 0, 0), (2, 0, 0)]
    skeleton = nnx.eval_shape(
        lambda: LanguageModel(official.model_config(golden), rngs=nnx.Rngs(0))
    )
    return golden, with_parameters(skeleton, official.model_parameters(golden, places))


def test_logits_and_loss_equal_official():
    golden, model = official_model()
    tokens = jnp.asarray(golden["input_ids"])
    with jax.default_matmul_precision("highest"):
        logits, _ = jax.jit(lambda m, t: m(t))(model, tokens)
        hidden, _ = jax.jit(lambda m, t: m.hidden(t))(model, tokens)
        losses = token_losses(hidden[:, :-1], jnp.asarray(model.head[...]), tokens[:, 1:], chunk=5)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, golden["logits"], rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(hidden, golden["hidden_3"], rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(jnp.mean(losses), golden["loss"], rtol=2e-5)
