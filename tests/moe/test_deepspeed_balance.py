"""The load-balance loss against DeepSpeed's, which the authors trained with, where they agree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cartesian_moe_jax.moe.balance import count_choices, routing_stats
from cartesian_moe_jax.moe.routers import SoftmaxTopK
from cartesian_moe_jax.moe.routing import Scores
from cartesian_moe_jax.moe.shape import SubLayerShape
from tests import official

# Both are (E / k) sum_e P_e f_e with all k choices in f, before any token is dropped.
FILES = {
    "deepspeed_top1_cap1_norts": 1,
    "deepspeed_topk_top2_cap1": 2,
    "deepspeed_topk_top4_cap1": 4,
    "deepspeed_topk_top4_cap2": 4,
}


def balance_loss(logits, top_k):
    """Our loss and load for given logits."""
    tokens, experts = logits.shape
    shape = SubLayerShape(d_model=1, num_experts=experts, top_k=top_k, d_expert=1)
    scores = Scores(logits, jax.nn.softmax(logits, axis=-1))
    routing = SoftmaxTopK(shape, rngs=nnx.Rngs(0)).choose(scores)
    load = count_choices(routing.expert_ids, experts) / tokens
    return routing_stats(scores, load, jnp.zeros(())).balance_loss, load


@pytest.mark.parametrize("name", FILES)
def test_values_and_gradients_equal_deepspeed(name):
    golden = official.load(name)
    logits = jnp.asarray(golden["logits"])
    gradient, load = jax.grad(balance_loss, has_aux=True)(logits, FILES[name])
    np.testing.assert_allclose(balance_loss(logits, FILES[name])[0], golden["l_aux"], rtol=1e-6)
    np.testing.assert_allclose(load.sum(), FILES[name], rtol=1e-6)
    if "grad.logits_of_l_aux" in golden:
        np.testing.assert_allclose(gradient, golden["grad.logits_of_l_aux"], rtol=1e-5, atol=1e-8)
