"""The language model: embedding, layers, final norm, head (paper section 4; LLaMA-style)."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from cartesian_moe_jax.config import ModelConfig
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.layers.frozen import Frozen
from cartesian_moe_jax.layers.initializers import normal
from cartesian_moe_jax.layers.rms_norm import RMSNorm
from cartesian_moe_jax.models.depth import layer_kinds, segments
from cartesian_moe_jax.models.embedding import embed
from cartesian_moe_jax.models.feed_forwards import moe_layers
from cartesian_moe_jax.models.in_use import whole_in_use
from cartesian_moe_jax.models.kv_cache import KeyValues, KVCache
from cartesian_moe_jax.models.segment import Segment
from cartesian_moe_jax.moe.intervention import Intervention
from cartesian_moe_jax.moe.routers import router_named
from cartesian_moe_jax.moe.routers.hash import initial_table
from cartesian_moe_jax.moe.routing import RouterContext, RoutingStats
from cartesian_moe_jax.parallel.layouts import LAYOUTS, Layout
from cartesian_moe_jax.platform import target_platform


def compute_dtype(name: str) -> jnp.dtype:
    """Resolve ``config.model.compute_dtype``: auto is bfloat16 on accelerators, else float32."""
    default = "float32" if target_platform() == "cpu" else "bfloat16"
    return jnp.dtype(default if name == "auto" else name)


def shared_table(config: ModelConfig, *, rngs: nnx.Rngs) -> Frozen | None:
    """Return the table that routers of all sub-layers read; None if they need none."""
    reads = router_named(config.moe.router).reads_table and not config.moe.table_per_sublayer
    if not (reads and moe_layers(config)):
        return None
    return initial_table(rngs, config.vocab_size, config.moe.num_experts)


class LanguageModel(nnx.Module):
    """A causal decoder over ``config.vocab_size`` tokens. Parameters are float32."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        layout: Layout = LAYOUTS["data"],
        rngs: nnx.Rngs,
    ):
        if not config.vocab_size:
            raise UserError("config.model.vocab_size=0 is not allowed here: it needs a tokenizer's")
        self.embedding = normal(rngs, (config.vocab_size, config.d_model), config.init_std)
        self.table = shared_table(config, rngs=rngs)
        shapes = segments(layer_kinds(config.num_layers, config.moe))
        self.segments = nnx.List([Segment(s, config, layout, rngs=rngs) for s in shapes])
        self.norm = RMSNorm(config.d_model, config.rms_norm_eps)
        self.head = normal(rngs, (config.d_model, config.vocab_size), config.init_std)
        self.dtype, self.layout = compute_dtype(config.compute_dtype), layout

    def hidden(
        self,
        token_ids: Int[Array, "batch seq"],
        intervention: Intervention | None = None,
        keep_choices: bool = False,
        train: bool = False,
    ) -> tuple[Float[Array, "batch seq d_model"], RoutingStats | None]:
        """Return the normed last hidden state, and statistics [moe_layers, sublayers, ...].

        A model without MoE layers returns None for the statistics. ``intervention`` is stacked
        [moe_layers, sublayers]. With ``keep_choices`` the statistics tell which experts each of the
        tokens = batch * seq uses. In training (``train``) exchanges between devices may drop pairs.
        """
        h, context = self._embedded(token_ids)
        context = dataclasses.replace(context, keep_choices=keep_choices, train=train)
        all_stats, first = [], 0
        for segment in self.segments:
            layers = slice(first, first + segment.repeats * sum(segment.routed))
            own = jax.tree.map(lambda leaf, s=layers: leaf[s], intervention)
            h, stats = segment(h, dataclasses.replace(context, intervention=own))
            first = layers.stop
            all_stats += [] if stats is None else [stats]
        joined = jax.tree.map(lambda *s: jnp.concatenate(s), *all_stats) if all_stats else None
        return self.norm(h), joined

    def prefill(
        self, token_ids: Int[Array, "batch seq"], length: Int[Array, "batch"]
    ) -> tuple[Float[Array, "batch seq d_model"], KVCache]:
        """Return ``hidden`` of texts, and the cache that ``extend`` goes on from.

        The cache has room for seq positions, of which the first ``length`` are filled.
        """
        h, own = self._read(token_ids, None)
        return h, KVCache.of(own, length)

    def extend(
        self, token_ids: Int[Array, "batch 1"], cache: KVCache
    ) -> tuple[Float[Array, "batch 1 d_model"], KVCache]:
        """Return ``hidden`` of the next token of each text, and the cache with it.

        There must be room. Equal to what ``hidden`` says of the whole text, but for rounding.
        """
        h, own = self._read(token_ids, cache)
        return h, cache.extended(own)

    def _read(
        self, token_ids: Int[Array, "batch seq"], cache: KVCache | None
    ) -> tuple[Float[Array, "batch seq d_model"], tuple[tuple[KeyValues, ...], ...]]:
        h, context = self._embedded(token_ids)
        all_own = []
        for index, segment in enumerate(self.segments):
            h, own = segment.extend(h, context, None if cache is None else cache.past(index))
            all_own.append(own)
        return self.norm(h), tuple(all_own)

    def _embedded(
        self, token_ids: Int[Array, "batch seq"]
    ) -> tuple[Float[Array, "batch seq d_model"], RouterContext]:
        with jax.named_scope("embedding"):
            h = embed(self.embedding[...], token_ids, self.layout, self.dtype)
        table = None if self.table is None else self.table[...]
        return h, RouterContext(token_ids.reshape(-1), table)

    def head_in_use(self) -> Float[Array, "d_model vocab"]:
        """Return the head as its product with the hidden states wants it."""
        return whole_in_use(self.head[...], "head", self.layout, self.dtype)

    def __call__(
        self, token_ids: Int[Array, "batch seq"]
    ) -> tuple[Float[Array, "batch seq vocab"], RoutingStats | None]:
        """Return float32 logits of the next token at every position, and the statistics."""
        h, stats = self.hidden(token_ids)
        head = self.head_in_use().astype(h.dtype)
        return jnp.matmul(h, head, preferred_element_type=jnp.float32), stats
