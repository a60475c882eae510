"""How fast does the paper's model write: a token for each of some texts, by what was kept of them.

Against its dense twin, and against the same model whose experts are XLA's `ragged_dot`. Weights
are in the compute dtype, as for texts from a trained model. Half of the window is filled.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from benchmarks.gpu.clock import REPEATS
from benchmarks.gpu.context import Context, model_config
from benchmarks.gpu.sizes import Texts
from benchmarks.step import dense_twin
from cartesian_moe_jax.config import Config, ModelConfig
from cartesian_moe_jax.kernels.leg_trials import time_run
from cartesian_moe_jax.kernels.tuning import one_line
from cartesian_moe_jax.models.build import build_model
from cartesian_moe_jax.models.in_use import narrowed
from cartesian_moe_jax.models.kv_cache import KVCache
from cartesian_moe_jax.models.language_model import LanguageModel
from cartesian_moe_jax.parallel.layouts import LAYOUTS


def run(context: Context) -> None:
    """Time a token of every text, at every number of texts, by every form of the model."""
    sizes = context.sizes
    config = model_config(sizes, 1, sizes.seq_len)
    name = " ".join(sizes.model)
    forms = {
        "dense twin": dense_twin(config).model,
        name: config.model,
        f"{name}, backend ragged": with_backend(config, "ragged"),
    }
    twins: dict[Texts, float] = {}
    for what, form in forms.items():
        model = _model(form)
        for texts in sizes.texts:
            done = _time(context, model, texts)
            found = {"what": what, **texts._asdict()}
            if isinstance(done, str):
                context.record.add(**found, none=done)
                continue
            twin = twins.setdefault(texts, done)
            rates = {"ms": done, "tokens_per_s": 1e3 * texts.texts / done, "to_twin": done / twin}
            context.record.add(**found, **rates)
    context.record.note("the most likely token of each text, weights in the compute dtype")


def with_backend(config: Config, backend: str) -> ModelConfig:
    """The model with other kernels of its experts."""
    moe = dataclasses.replace(config.model.moe, backend=backend)
    return dataclasses.replace(config.model, moe=moe)


def _model(config: ModelConfig) -> LanguageModel:
    def build() -> LanguageModel:
        model = build_model(config, LAYOUTS["data"], 0)
        return narrowed(model, model.dtype)

    return jax.jit(build)()


def _time(context: Context, model: LanguageModel, texts: Texts) -> float | str:
    """The milliseconds of a token of every text, or why they cannot be had."""
    try:
        tokens, cache = _begun(model, texts)
        program = jax.jit(_next, donate_argnums=2).lower(model, tokens, cache).compile()
        held = [tokens, cache]

        def token() -> Any:
            # Beyond the window nothing is kept; the time is the same.
            held[:] = program(model, *held)
            return held

        return time_run(token, (), context.sizes.seconds, REPEATS)
    except jax.errors.JaxRuntimeError as error:
        return one_line(error)


def _begun(model: LanguageModel, texts: Texts) -> tuple[Int[Array, "texts"], KVCache]:
    """Texts of half a window, whatever they say."""
    tokens = jnp.zeros((texts.texts, texts.window), jnp.int32)
    length = jnp.full(texts.texts, texts.window // 2, jnp.int32)
    _, shapes = jax.eval_shape(LanguageModel.prefill, model, tokens, length)
    keys = iter(jax.random.split(jax.random.key(0), len(jax.tree.leaves(shapes))))
    kept = jax.tree.map(lambda s: jax.random.normal(next(keys), s.shape, s.dtype), shapes.segments)
    return tokens[:, 0], KVCache(kept, jnp.max(length), length)


def _next(
    model: LanguageModel, tokens: Int[Array, "texts"], cache: KVCache
) -> tuple[Int[Array, "texts"], KVCache]:
    hidden, cache = model.extend(tokens[:, None], cache)
    head = model.head_in_use().astype(hidden.dtype)
    return jnp.argmax(hidden[:, 0] @ head, axis=-1).astype(jnp.int32), cache
