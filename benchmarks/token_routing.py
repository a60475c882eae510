"""How much of the routing the token alone tells, whatever stands before it.

    python -m benchmarks.token_routing RUN [RUN ...] --tokens=200000

For each token of the vocabulary, the k experts that it uses most often in the first half of the
validation text are the guess for the second half. Shown is the share of choices that are guessed,
for every MoE layer and sub-layer: 1 where experts are chosen by the token's identity alone. The
guess without the token, the k most loaded experts, is the least; k / experts is chance.
"""

import argparse
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from cartesian_moe_jax import TrainedModel, UserError, load
from cartesian_moe_jax.cache import cache_folder
from cartesian_moe_jax.data.loader import evaluation_batches
from cartesian_moe_jax.data.prepared import prepare_data
from cartesian_moe_jax.models.feed_forwards import moe_layers

ROWS = 32
HEADER = "guessed by the token   by the load   chance   MoE layer   sub-layer   run"

Counts = Float[np.ndarray, "stack vocab experts"]


class Guessed(NamedTuple):
    """Shares of choices, for each sub-layer of each MoE layer."""

    by_token: Float[np.ndarray, "stack"]
    by_load: Float[np.ndarray, "stack"]


def count_choices(
    choices: Bool[Array, "moe_layers sublayers tokens experts"],
    tokens: Int[Array, "tokens"],
    mask: Bool[Array, "tokens"],
    vocab_size: int,
) -> Float[Array, "moe_layers*sublayers vocab experts"]:
    """Return how often each token of the vocabulary uses each expert, where ``mask`` is true."""
    used = (choices & mask[:, None]).astype(jnp.float32)
    used = used.reshape(-1, *used.shape[2:])
    return jax.vmap(lambda u: jax.ops.segment_sum(u, tokens, vocab_size))(used)


def guess(first: Counts, second: Counts, top_k: int) -> Guessed:
    """Guess the choices of the second half of a text by what was counted in the first."""
    load = first.sum(axis=1, keepdims=True)
    # The load decides between experts that a token used as often, and for unseen tokens.
    order = np.argsort(first + load / (load.sum(axis=-1, keepdims=True) + 1), axis=-1)
    by_token = np.take_along_axis(second, order[..., -top_k:], axis=-1)
    most = np.argsort(load, axis=-1)[..., -top_k:]
    by_load = np.take_along_axis(second.sum(axis=1, keepdims=True), most, axis=-1)
    total = second.sum(axis=(1, 2))
    return Guessed(by_token.sum(axis=(1, 2)) / total, by_load.sum(axis=(1, 2)) / total)


def measure(lm: TrainedModel, max_tokens: int) -> Guessed:
    """Return how much is guessed on the first ``max_tokens`` of the run's validation text."""
    config = lm.config
    if not moe_layers(config.model):
        raise UserError("a model without MoE layers has no routing to guess")
    folder = str(cache_folder(config.data.cache_dir, "data"))
    text = prepare_data(config.data, lm.tokenizer, folder).validation[0].tokens

    @jax.jit
    def count(model, tokens, mask):
        _, stats = model.hidden(tokens, keep_choices=True)
        flat = tokens.reshape(-1), mask.reshape(-1)
        return count_choices(stats.choices, *flat, config.model.vocab_size)

    halves, seen, limit = [0, 0], 0, min(max_tokens, len(text) - 1)
    for tokens, mask in evaluation_batches(text, config.data.seq_len, ROWS):
        if seen >= limit:
            break
        halves[int(seen >= limit / 2)] += np.asarray(count(lm.model, tokens[:, :-1], mask))
        seen += int(mask.sum())
    return guess(*halves, config.model.moe.top_k)


def table(runs: Sequence[str], max_tokens: int) -> str:
    """Return a header, and a line for each sub-layer of each run."""
    lines = [HEADER]
    for run in runs:
        lm = load(run)
        moe, found = lm.config.model.moe, measure(lm, max_tokens)
        chance = moe.top_k / moe.num_experts
        for i, (by_token, by_load) in enumerate(zip(*found, strict=True)):
            layer, sublayer = divmod(i, moe.sublayers)
            shares = f"{by_token:20.3f}   {by_load:11.3f}   {chance:6.3f}"
            lines.append(f"{shares}   {layer:9}   {sublayer:9}   {run}")
    return "\n".join(lines)


def main() -> None:
    """Print the table; what cannot be measured is one line and status 2."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--tokens", type=int, default=200_000, help="of the validation text")
    flags = parser.parse_args()
    try:
        print(table(flags.runs, flags.tokens))
    except UserError as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
