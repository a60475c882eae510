"""Every method of the paper as a value: a few fields of the config, over the same modules.

All are described against one plain MoE layer of E experts of width D, k of them chosen, so that
parameters and computation match. Names and sizes are those of the paper's tables, except for the
two controls that it lacks, ``dense_active`` and ``dense_stacked``.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from cartesian_moe_jax.config import ModelConfig
from cartesian_moe_jax.errors import UserError, lookup

Fields = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class PlainLayer:
    """The MoE layer before any method: E experts of width D (``d_ff``), k chosen, one shared."""

    d_ff: int
    num_experts: int
    top_k: int

    def width(self, numerator: int, denominator: int) -> int:
        """Return D * numerator / denominator; raises UserError if that is no whole number."""
        if self.d_ff * numerator % denominator:
            raise UserError(
                f"config.model.d_ff={self.d_ff} is not allowed: this method needs "
                f"{numerator}/{denominator} of it to be a whole number"
            )
        return self.d_ff * numerator // denominator


def _fields(plain: PlainLayer, **changes: Any) -> Fields:
    """Return the fields of one plain MoE layer, with changes: every field a method may touch."""
    unchanged = {
        "layer": "cartesian",
        "sublayers": 1,
        "num_experts": plain.num_experts,
        "router": "softmax_top_k",
        "top_k": plain.top_k,
        "d_expert": plain.d_ff,
        "shared_expert": True,
        "shared_feed_forwards": 1,
    }
    return {"d_ff": plain.d_ff, "moe": unchanged | changes}


def _cartesian(p: PlainLayer, **changes: Any) -> Fields:
    return _fields(p, sublayers=2, d_expert=p.width(1, 2), **changes)


def _smoe_top3(p: PlainLayer) -> Fields:
    """Widen E experts to the size of E + 1, and the dense layers too.

    The paper's active 258M and 808M need the latter; its total of 842M is then 844.6M.
    """
    wide = p.width(p.num_experts + 1, p.num_experts)
    top_3 = _fields(p, top_k=p.top_k + 1, d_expert=wide, shared_expert=False)
    return top_3 | {"d_ff": wide}


METHODS: Mapping[str, Callable[[PlainLayer], Fields]] = {
    "dense": lambda p: _fields(p, interval=0),
    "smoe_share": lambda p: _fields(p),
    "smoe_top3": _smoe_top3,
    "hash": lambda p: _fields(p, router="hash", balance_loss=0.0, z_loss=0.0),
    "fine_grained": lambda p: _fields(
        p,
        num_experts=2 * p.num_experts,
        top_k=2 * p.top_k,
        d_expert=p.width(1, 2),
        shared_feed_forwards=2,
    ),
    "top_p": lambda p: _fields(p, router="top_p"),
    "cartesian": _cartesian,
    "cartesian_noshared": lambda p: _cartesian(p, shared_expert=False),
    # In place of the MoE layers: as wide as what a token uses of them, or as deep as cartesian.
    "dense_active": lambda p: _fields(p, layer="stacked", d_expert=(p.top_k + 1) * p.d_ff),
    "dense_stacked": lambda p: _cartesian(p, layer="stacked"),
}
"""The fields of ``config.model`` that make each method, by name."""


def method_fields(name: str, plain: PlainLayer) -> Fields:
    """Return nested fields of ``config.model``; raises UserError for an unknown method."""
    return lookup(METHODS, name, "method")(plain)


def with_method(config: ModelConfig, name: str, plain: PlainLayer) -> ModelConfig:
    """Return the config with a method in place of its own; all that methods share stays.

    So do the losses that ``hash`` sets to 0. Raises UserError if no layer may be a mixture, which
    is what ``dense`` leaves.
    """
    fields = method_fields(name, plain)
    if not config.moe.interval and "interval" not in fields["moe"]:
        raise UserError(f"config.model.moe.interval=0 leaves the method {name!r} no layer")
    moe = dataclasses.replace(config.moe, **fields.pop("moe"))
    return dataclasses.replace(config, moe=moe, **fields)
