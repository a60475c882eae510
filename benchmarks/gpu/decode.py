"""How fast does the paper's model write: one token at a time, by a forward pass of the window."""

import time

import jax
import numpy as np

from benchmarks.gpu.context import Context, model_config
from cartesian_moe_jax.evaluation.generation import generate_tokens, make_sampler
from cartesian_moe_jax.models.build import build_model
from cartesian_moe_jax.parallel.layouts import LAYOUTS


def run(context: Context) -> None:
    """Time the generation of one text at every window, in float32 weights and compute dtype."""
    sizes = context.sizes
    config = model_config(sizes, 1, sizes.seq_len).model
    model = jax.jit(lambda: build_model(config, LAYOUTS["data"], 0))()
    for window, tokens in sizes.texts:
        prompt = np.random.default_rng(0).integers(0, config.vocab_size, window // 2).tolist()
        sampler = make_sampler(window, config.vocab_size)

        def written(count: int, window: int = window, prompt=prompt, sampler=sampler) -> float:
            start = time.perf_counter()
            options = {"window": window, "temperature": 0.8, "seed": 0}
            generate_tokens(sampler, model, prompt, count, **options)
            return time.perf_counter() - start

        written(2)
        seconds = written(tokens)
        context.record.add(
            what=" ".join(sizes.model),
            window=window,
            tokens=tokens,
            tokens_per_s=tokens / seconds,
            ms=1e3 * seconds / tokens,
        )
    context.record.note("a sequence at a time, the window computed anew for every token: no cache")
