"""The paper's models: --config=configs/paper.py:SIZE,METHOD, as in paper.py:base,cartesian.

SIZE is base (842M parameters, 247M active), large (2.88B, 770M) or 7b (7.25B, 1.61B), METHOD is one
of cartesian_moe_jax/models/methods.py; the sizes are in sizes.py beside it. The training recipe is
the default one of every preset; data and tokenizer are yours to name (configs/pile.py has the
Pile's).
"""

from ml_collections import ConfigDict

from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.models.sizes import SIZES, size_fields
from configs import base

__all__ = ["SIZES", "get_config"]


def get_config(argument: str = "base,cartesian") -> ConfigDict:
    """Return the preset of `SIZE,METHOD`."""
    size, comma, method = argument.partition(",")
    if not comma:
        raise UserError(f"configs/paper.py:{argument} is not SIZE,METHOD, as in base,cartesian")
    config = base.get_config()
    config.model.update(size_fields(size, method, "configs/paper.py:SIZE"))
    return config
