"""Beyond the paper's sizes: --config=configs/scale.py:SIZE,METHOD, as in scale.py:30b,cartesian.

SIZE is 30b (29.9B parameters, 4.75B active) or 120b (119.8B, 11.1B); METHOD is one of
cartesian_moe_jax/models/methods.py. The paper ends at 7b: these sizes are our choice, for its first
open question. As larger models have them, experts are many and fine: by METHOD cartesian, a token
uses 8 of 64 (30b) or of 128 (120b) sub-experts in each of two sub-layers. A batch is 4M tokens in
sequences of 4096: it divides over 64 and over 256 devices. Data and tokenizer are yours to name.
"""

from ml_collections import ConfigDict

from cartesian_moe_jax.errors import UserError, lookup
from cartesian_moe_jax.models.methods import PlainLayer, method_fields
from configs import base

SIZES = {
    "30b": ({"d_model": 2048, "num_layers": 26, "num_heads": 16}, PlainLayer(2816, 64, 8)),
    "120b": ({"d_model": 4096, "num_layers": 36, "num_heads": 32}, PlainLayer(2048, 128, 8)),
}
"""Fields of the decoder, and the MoE layer before any method: hidden width, experts, top_k."""


def get_config(argument: str = "30b,cartesian") -> ConfigDict:
    """Return the preset of `SIZE,METHOD`."""
    size, comma, method = argument.partition(",")
    if not comma:
        raise UserError(f"configs/scale.py:{argument} is not SIZE,METHOD, as in 30b,cartesian")
    fields, plain = lookup(SIZES, size, "configs/scale.py:SIZE")
    config = base.get_config()
    config.model.update(fields)
    config.model.moe.interval = 1
    config.model.vocab_size = 64_000
    config.model.remat = "full"
    config.model.update(method_fields(method, plain))
    config.data.seq_len = 4096
    config.training.batch_size = 1024
    return config
