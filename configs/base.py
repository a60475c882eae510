"""The defaults of every field: the schema of cartesian_moe_jax/config.py as a ConfigDict."""

import dataclasses

from ml_collections import ConfigDict

from cartesian_moe_jax.config import Config


def get_config() -> ConfigDict:
    """Return all defaults: the paper's Base model and training recipe."""
    return ConfigDict(dataclasses.asdict(Config()))
