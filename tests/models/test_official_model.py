"""Whole models against the official implementation: hidden states, logits, loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cartesian_moe_jax.models.cross_entropy import token_losses
from cartesian_moe_jax.models.language_model import LanguageModel
from cartesian_moe_jax.models.parameters import with_parameters
from tests import official

PLACES = {
    "cartesian_interleave": [(0, 0), (1, 0), (2, 0)],  # m d m: three segments of one layer
    "hash_from1": [(0, 0), (1, 0), (1, 0)],  # d | m m: a table over a scanned segment
    "finegrain_all": [(0, 0), (0, 0), (0, 0)],
}
"""(segment, block) of each layer."""


def official_model(name, backend):
    golden = official.load(f"cartesianmoe_model_{name}")
    config = official.model_config(golden, backend)
    skeleton = nnx.eval_shape(lambda: LanguageModel(config, rngs=nnx.Rngs(0)))
    return golden, with_parameters(skeleton, official.model_parameters(golden, PLACES[name]))


@pytest.mark.parametrize("backend", ["reference", "tiled"])
@pytest.mark.parametrize("name", PLACES)
def test_logits_and_loss_equal_official(name, backend):
    golden, model = official_model(name, backend)
    tokens = jnp.asarray(golden["input_ids"])
    with jax.default_matmul_precision("highest"):
        logits, _ = jax.jit(lambda m, t: m(t))(model, tokens)
        hidden, _ = jax.jit(lambda m, t: m.hidden(t))(model, tokens)
        losses = token_losses(hidden[:, :-1], jnp.asarray(model.head[...]), tokens[:, 1:], chunk=5)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, golden["logits"], rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(hidden, golden["hidden_3"], rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(jnp.mean(losses), golden["loss"], rtol=2e-5)
