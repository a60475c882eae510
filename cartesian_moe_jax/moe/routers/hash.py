"""Hash routing (Hash Layers, arXiv 2106.04426): the token's id alone decides."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.layers.frozen import Frozen
from cartesian_moe_jax.layers.initializers import normal
from cartesian_moe_jax.moe.routers.router import Router
from cartesian_moe_jax.moe.routers.softmax_top_k import choose_top_k
from cartesian_moe_jax.moe.routing import RouterContext, Routing, Scores
from cartesian_moe_jax.moe.shape import SubLayerShape


def initial_table(rngs: nnx.Rngs, rows: int, num_experts: int) -> Frozen:
    """Return a table whose every row is a random order of 0, 1, ..., experts - 1.

    Entries of a row are 1 apart, so no rounding changes a choice, and each expert is as likely as
    any other: the top two weigh 0.73 and 0.27, whatever the token.
    """
    ranks = jnp.broadcast_to(jnp.arange(num_experts, dtype=jnp.float32), (rows, num_experts))
    return Frozen(jax.random.permutation(rngs.params(), ranks, axis=1, independent=True))


class Hash(Router):
    """p = softmax(table[token id]); the top k, renormalised when k > 1.

    The table is a parameter that training leaves alone. The official model has a learned router
    beside it whose result it ignores: ``unused`` is its weight, so that counts and checkpoints
    agree to the last parameter; nothing reads it.
    """

    learned = False
    reads_table = True

    def __init__(self, shape: SubLayerShape, *, rngs: nnx.Rngs):
        unused = normal(rngs, (shape.d_model, shape.num_experts), shape.init_std)
        self.unused = Frozen(unused[...])
        rows = shape.table_rows
        self.table = initial_table(rngs, rows, shape.num_experts) if rows else None
        self.top_k = shape.top_k

    @staticmethod
    def slots(shape: SubLayerShape) -> int:
        """Return k: every token uses that many."""
        return shape.top_k

    def scores(self, x: Float[Array, "tokens d_model"], context: RouterContext) -> Scores:
        """Look up every token's logits; raises UserError if the context lacks what that needs."""
        table = context.table if self.table is None else self.table[...]
        if table is None or context.token_ids is None:
            raise UserError("the hash router needs token_ids and a table in its RouterContext")
        logits = jax.lax.stop_gradient(table)[context.token_ids]
        return Scores(logits, jax.nn.softmax(logits, axis=-1))

    def choose(self, scores: Scores) -> Routing:
        """Choose each token's k experts."""
        return choose_top_k(scores, self.top_k)
