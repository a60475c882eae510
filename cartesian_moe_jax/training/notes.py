"""What a person should know before a run begins, and may not have meant."""

from cartesian_moe_jax.config import Config
from cartesian_moe_jax.data.prepared import PreparedData

MANY_PASSES = 40
"""More than this over one text teaches a model hardly more (arXiv 2305.16264)."""
SPARE_ROWS = 2
"""So many times the tokenizer's vocabulary is more than padding."""


def notes(config: Config, data: PreparedData) -> list[str]:
    """Return a line for each part that is read very often, and one for a vocabulary not used."""
    training = config.training
    tokens = training.steps * training.batch_size * config.data.seq_len
    lines = []
    for part in data.train:
        passes = part.weight * tokens / len(part.tokens)
        if passes > MANY_PASSES:
            lines.append(f"note: config.training.steps reads {part.name} {passes:,.0f} times over")
    rows, used = config.model.vocab_size, data.tokenizer.vocab_size
    if rows > SPARE_ROWS * max(used, 128):
        lines.append(
            f"note: config.model.vocab_size={rows} is more than the {used} tokens of "
            f"config.data.tokenizer={config.data.tokenizer}: the rest is never used"
        )
    return lines
