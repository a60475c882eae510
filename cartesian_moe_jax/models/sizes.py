"""The sizes of the paper's models as values: base, large and 7b, to be had by any method."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from cartesian_moe_jax.errors import lookup
from cartesian_moe_jax.models.methods import PlainLayer, method_fields

PLAIN = PlainLayer(d_ff=3072, num_experts=16, top_k=2)
VOCABULARY = 32_000

SIZES: Mapping[str, tuple[dict[str, Any], int, PlainLayer]] = MappingProxyType(
    {
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
)
"""Fields of the decoder, the interval of MoE layers, and the MoE layer before any method."""


def size_fields(size: str, method: str, field: str = "size") -> dict[str, Any]:
    """Return nested fields of ``config.model``.

    Raises UserError for an unknown size, which it calls ``field``, or method.
    """
    decoder, interval, plain = lookup(SIZES, size, field)
    fields = method_fields(method, plain)
    moe = {"interval": interval, **fields.pop("moe")}
    return {**decoder, "vocab_size": VOCABULARY, **fields, "moe": moe}
