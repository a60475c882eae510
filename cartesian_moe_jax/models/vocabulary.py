"""The model's vocabulary: the tokenizer's, padded so that it divides over devices and lanes."""

import dataclasses

from cartesian_moe_jax.config import Config
from cartesian_moe_jax.errors import UserError

MULTIPLE = 128


def with_vocabulary(config: Config, tokenizer_vocab_size: int) -> Config:
    """Return the config with ``model.vocab_size`` set; raises UserError if it is too small."""
    size = config.model.vocab_size or -(-tokenizer_vocab_size // MULTIPLE) * MULTIPLE
    if size < tokenizer_vocab_size:
        raise UserError(
            f"config.model.vocab_size={size} is not allowed: the tokenizer "
            f"{config.data.tokenizer!r} has {tokenizer_vocab_size} tokens"
        )
    return dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=size))
