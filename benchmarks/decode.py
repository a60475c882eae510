"""Writing text: the next token of one text and of several, against the dense twin.

    python -m benchmarks decode --config=configs/quickstart.py --texts=1,16

Weights are drawn, and in the compute dtype, as when a trained model writes. Half of the window
(`config.data.seq_len`) is filled. `whole window` is a pass over all of it for every token.
"""

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from benchmarks.step import dense_twin
from benchmarks.timing import Case, Timing, compile_case, format_table, time_cases
from cartesian_moe_jax.config import Config, ModelConfig
from cartesian_moe_jax.models.build import build_model
from cartesian_moe_jax.models.in_use import narrowed
from cartesian_moe_jax.models.kv_cache import KVCache
from cartesian_moe_jax.models.language_model import LanguageModel
from cartesian_moe_jax.models.vocabulary import with_vocabulary
from cartesian_moe_jax.parallel.layouts import LAYOUTS
from cartesian_moe_jax.training.memory import take_memory

HEADER = ("writing", "texts", "ms", "quartiles", "to twin", "tokens/s", "temporary MB", "compile s")


def writing_model(config: ModelConfig) -> LanguageModel:
    """Return a new model with weights as they are read when it writes."""

    def build() -> LanguageModel:
        model = build_model(config, LAYOUTS["data"], 0)
        return narrowed(model, model.dtype)

    return jax.jit(build)()


def next_token_case(name: str, model: LanguageModel, texts: int, window: int) -> Case:
    """Compile the most likely next token of each text; a run is a token after that before.

    Beyond the window nothing is kept any more, at the same cost.
    """
    tokens, cache = _begun(model, texts, window)
    start = time.perf_counter()
    program = jax.jit(_next, donate_argnums=2).lower(model, tokens, cache).compile()
    seconds = time.perf_counter() - start
    held = [tokens, cache]

    def run() -> Any:
        held[:] = program(model, *held)
        return held

    return Case(name, run, program.memory_analysis().temp_size_in_bytes, seconds)


def whole_window_case(name: str, model: LanguageModel, texts: int, window: int) -> Case:
    """Compile what the next token costs if nothing is kept."""

    def last(model: LanguageModel, tokens: Int[Array, "texts window"]) -> Int[Array, "texts"]:
        return _most_likely(model, model.hidden(tokens)[0][:, -1])

    return compile_case(name, last, model, jnp.zeros((texts, window), jnp.int32))


def _begun(model: LanguageModel, texts: int, window: int) -> tuple[Int[Array, "texts"], KVCache]:
    """Texts of half a window, whatever they say."""
    tokens = jnp.zeros((texts, window), jnp.int32)
    length = jnp.full(texts, window // 2, jnp.int32)
    _, shapes = jax.eval_shape(LanguageModel.prefill, model, tokens, length)
    keys = iter(jax.random.split(jax.random.key(0), len(jax.tree.leaves(shapes))))
    kept = jax.tree.map(lambda s: jax.random.normal(next(keys), s.shape, s.dtype), shapes.segments)
    return tokens[:, 0], KVCache(kept, jnp.max(length), length)


def _next(
    model: LanguageModel, tokens: Int[Array, "texts"], cache: KVCache
) -> tuple[Int[Array, "texts"], KVCache]:
    hidden, cache = model.extend(tokens[:, None], cache)
    return _most_likely(model, hidden[:, 0]), cache


def _most_likely(model: LanguageModel, last: Any) -> Int[Array, "texts"]:
    head = model.head_in_use().astype(last.dtype)
    return jnp.argmax(last @ head, axis=-1).astype(jnp.int32)


def measure(config: Config, texts: int, rounds: int) -> list[Timing]:
    """Time a token of each text by the model, by its dense twin, and without what is kept."""
    model, window = writing_model(config.model), config.data.seq_len
    twin = writing_model(dense_twin(config).model)
    cases = [
        next_token_case("model", model, texts, window),
        next_token_case("dense twin", twin, texts, window),
        whole_window_case("model, whole window", model, texts, window),
    ]
    return time_cases(cases, rounds)


def table_rows(texts: int, timings: Sequence[Timing]) -> list[Sequence[str]]:
    """Return a row of the table for each."""
    (twin,) = [timing for timing in timings if timing.case.name == "dense twin"]
    return [
        (
            timing.case.name,
            str(texts),
            f"{timing.median:.2f}",
            timing.quartiles(),
            f"{timing.median / twin.median:.2f}",
            f"{1e3 * texts / timing.median:,.0f}",
            f"{timing.case.temporary_bytes / 1e6:.0f}",
            f"{timing.case.compile_seconds:.1f}",
        )
        for timing in timings
    ]


def numbers(text: str) -> list[int]:
    """Read numbers joined by commas."""
    return [int(number) for number in text.split(",")]


def main() -> None:
    """Measure, print, and write the JSON file if asked to."""
    from configs.flags import config_of  # not at the top: the GPU's machine has no ml_collections

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=numbers, default=[1, 16])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--vocab_size", type=int, default=257)
    parser.add_argument("--json", help="file to write the measurements to")
    flags, rest = parser.parse_known_args()
    config = with_vocabulary(config_of(rest), flags.vocab_size)
    take_memory(config.model)
    rows: list[Sequence[str]] = []
    records = []
    for texts in flags.texts:
        timings = measure(config, texts, flags.rounds)
        rows += table_rows(texts, timings)
        records += [{"texts": texts, **timing.record()} for timing in timings]
    print(format_table(HEADER, rows))
    if flags.json:
        with open(flags.json, "w") as file:
            json.dump({"measurements": records}, file, indent=1)


if __name__ == "__main__":
    main()
