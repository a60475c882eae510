"""Which memory a run on CPU gets: one setting is best for small models, one for large."""

from cartesian_moe_jax.config import ModelConfig
from cartesian_moe_jax.process_memory import keep_freed_memory, restart_in_huge_pages

MOST_WEIGHTS = 2**25
"""Up to here a restart pays: a fifth of the step at 1 million weights, nothing at 50 million, and
at 200 million the step takes longer, since a buffer of more than 64 MB, as each step needs one, is
then mapped and cleared anew."""


def take_memory(model: ModelConfig) -> None:
    """Restart the process in huge pages if the model is small; in any case keep freed memory.

    Call it before jax is imported.
    """
    if largest_weights(model) <= MOST_WEIGHTS:
        restart_in_huge_pages()
    keep_freed_memory()


def largest_weights(model: ModelConfig) -> int:
    """Return how many there would be if all layers were of the larger kind; no vocabulary."""
    moe = model.moe
    dense, experts = model.d_ff, moe.sublayers * moe.num_experts * moe.d_expert
    return model.num_layers * model.d_model * (4 * model.d_model + 3 * max(dense, experts))
