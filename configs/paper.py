"""The paper's models: --config=configs/paper.py:SIZE,METHOD, as in paper.py:base,cartesian.

SIZE is base (842M parameters, 247M active), large (2.88B, 770M) or 7b (7.25B, 1.61B); METHOD is
one of cartesian_moe_jax/models/methods.py. The training recipe is the default one of every preset;
data and tokenizer are yours to name (configs/pile.py has the Pile's).
"""

import dataclasses

from ml_collections import ConfigDict

from cartesian_moe_jax.errors import UserError, lookup
from cartesian_moe_jax.models.methods import PlainLayer, method_fields
from configs import base

PLAIN = PlainLayer(d_ff=3072, num_experts=16, top_k=2)

SIZES = {
    "base": ({"d_model": 768, "num_layers": 12, "num_heads": 12}, 2, PLAIN),
    "large": (
        {"d_model": 1024, "num_layers": 24, "num_heads": 16},
        2,
        dataclasses.replace(PLAIN, d_ff=4096),
    ),
    # The paper does not give this size: it is what its parameter counts fit; 16 heads are ours.
    "7b": (
        {"d_model": 2048, "num_layers": 16, "num_heads": 16},
        1,
        dataclasses.replace(PLAIN, d_ff=4096),
    ),
}
"""Fields of the decoder, the interval of MoE layers, and the MoE layer before any method."""


def get_config(argument: str = "base,cartesian") -> ConfigDict:
    """Return the preset of `SIZE,METHOD`."""
    size, comma, method = argument.partition(",")
    if not comma:
        raise UserError(f"configs/paper.py:{argument} is not SIZE,METHOD, as in base,cartesian")
    fields, interval, plain = lookup(SIZES, size, "configs/paper.py:SIZE")
    config = base.get_config()
    config.model.update(fields)
    config.model.moe.interval = interval
    config.model.vocab_size = 32_000
    config.model.update(method_fields(method, plain))
    return config
