"""What of a run's config may be changed to evaluate it; needs no jax."""

from collections.abc import Mapping
from typing import Any

Changes = Mapping[str, Mapping[str, Any]]
"""Values in place of the run's, by section and field."""

CHANGEABLE = {
    "evaluation": ("batch_size", "max_tokens"),
    "parallel": ("layout", "data", "fsdp", "expert", "tensor", "rules", "exchange"),
    "data": ("corpus", "validation_corpus", "cache_dir", "tfds_dir", "workers"),
}
"""The fields that an evaluation heeds; the others are the model's, or training's alone."""


def allowed() -> str:
    """Say what may be changed."""
    names = [f"config.{section}.({', '.join(names)})" for section, names in CHANGEABLE.items()]
    return f"a run is evaluated with its own config, but for {', '.join(names)}"
