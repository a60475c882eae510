"""The official implementation's tensors and our parameters, either from the other.

One table says which is which. A parameter of ours stacks layers (``segments/S/blocks/B/...`` has
the repetitions on its first axis), experts, and the halves of a doubled shared expert; each piece
of it is one tensor of theirs, in torch's order [out, in].
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped

from cartesian_moe_jax.config import ModelConfig
from cartesian_moe_jax.models.depth import layer_kinds, segments
from cartesian_moe_jax.models.parameters import logical_axes

Index = tuple[int | slice, ...]

LAYER = r"segments/(?P<segment>\d+)/blocks/(?P<block>\d+)/"
SUBLAYER = LAYER + r"feed_forward/sublayers/(?P<sublayer>\d+)/"
PART = r"(?P<part>gate|up|down)"
THEIRS = "model.layers.{layer}."


class Rule(NamedTuple):
    """A pattern of our names and the template of theirs."""

    ours: str
    theirs: str
    inputs: int = 1
    """Leading axes of ours that are the input of a matrix; 0: there is no matrix to transpose."""


RULES = (
    Rule("embedding", "model.embed_tokens.weight", inputs=0),
    Rule("table", "model.router_tokens.weight", inputs=0),
    Rule("norm/gain", "model.norm.weight", inputs=0),
    Rule("head", "lm_head.weight"),
    Rule(LAYER + "norm/gain", THEIRS + "input_layernorm.weight", inputs=0),
    Rule(LAYER + "attention/query", THEIRS + "self_attn.q_proj.weight"),
    Rule(LAYER + "attention/key", THEIRS + "self_attn.k_proj.weight"),
    Rule(LAYER + "attention/value", THEIRS + "self_attn.v_proj.weight"),
    Rule(LAYER + "attention/out", THEIRS + "self_attn.o_proj.weight", inputs=2),
    Rule(
        LAYER + "feed_forward/(norm|norms/0)/gain",
        THEIRS + "post_attention_layernorm.weight",
        inputs=0,
    ),
    Rule(LAYER + "feed_forward/norms/1/gain", THEIRS + "mlp_layernorm.weight", inputs=0),
    Rule(LAYER + "feed_forward/feed_forward/" + PART, THEIRS + "mlp.{part}_proj.weight"),
    # A hash-routed layer has a learned router too, whose result nobody reads.
    Rule(SUBLAYER + "router/(weight|unused)", THEIRS + "wg{number}.weight"),
    Rule(SUBLAYER + "experts/" + PART, THEIRS + "mlp{number}.{expert}.{part}_proj.weight"),
    Rule(SUBLAYER + "shared_expert/coefficient", THEIRS + "coefficient{number}.weight"),
    Rule(SUBLAYER + "shared_expert/bias", THEIRS + "coefficient{number}.bias", inputs=0),
    Rule(
        SUBLAYER + "shared_expert/feed_forward/" + PART,
        THEIRS + "res_mlp{number}{half}.{part}_proj.weight",
    ),
)
"""Fields of the templates: layer, part; number of the sub-layer, empty where there is only one;
expert; half of a doubled shared expert, empty where it is one feed-forward."""

WITHOUT_WEIGHT = re.compile(r"rotary_emb\.inv_freq$")
"""Tensors of theirs that are computed, not learned; older versions save them."""


class Piece(NamedTuple):
    """One tensor of theirs: its name, and where it lies in a parameter of ours."""

    name: str
    index: Index
    shape: tuple[int, ...]
    """Of ``parameter[index]``."""
    inputs: int

    def official_shape(self) -> tuple[int, ...]:
        """Return the shape of their tensor."""
        if not self.inputs:
            return self.shape
        return math.prod(self.shape[self.inputs :]), math.prod(self.shape[: self.inputs])

    def to_ours(self, tensor: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
        """Return what ``parameter[index]`` becomes."""
        return (tensor.T if self.inputs else tensor).reshape(self.shape)

    def to_theirs(self, parameter: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
        """Return their tensor, cut out of our parameter."""
        own = parameter[self.index]
        return own.reshape(self.official_shape()[::-1]).T if self.inputs else own


def pieces(name: str, shape: tuple[int, ...], model: ModelConfig) -> Iterator[Piece]:
    """Yield the tensors that our parameter ``name`` is made of."""
    rule, words = _rule_of(name)
    words["number"] = words["sublayer"] if model.moe.sublayers > 1 else ""
    whole = np.broadcast_to(np.float32(0), shape)  # has the shapes, takes no memory
    for layer, first in _places(words, model):
        for more, rest in SPLITS[_split(rule.theirs)](name, shape, model):
            index = (*first, *rest)
            theirs = rule.theirs.format(layer=layer, **words, **more)
            yield Piece(theirs, index, whole[index].shape, rule.inputs)


def all_pieces(parameters: Mapping[str, Any], model: ModelConfig) -> dict[str, tuple[str, Piece]]:
    """Return, by their name, every tensor of theirs, with the parameter of ours that it is in."""
    return {
        piece.name: (name, piece)
        for name, value in parameters.items()
        for piece in pieces(name, value.shape, model)
    }


def _rule_of(name: str) -> tuple[Rule, dict[str, str]]:
    """Return the rule of a parameter of ours, and the words in its name."""
    for rule in RULES:
        if match := re.fullmatch(rule.ours, name):
            return rule, {"sublayer": "", **match.groupdict()}
    raise KeyError(f"no official name is listed for parameter {name!r}")


def _places(words: Mapping[str, str], model: ModelConfig) -> list[tuple[int | None, Index]]:
    """List the layers that a parameter stacks, each with its index on the first axis."""
    if "segment" not in words:
        return [(None, ())]
    segment, block = int(words["segment"]), int(words["block"])
    shapes = segments(layer_kinds(model.num_layers, model.moe))
    start = sum(len(shape.pattern) * shape.repeats for shape in shapes[:segment])
    pattern, repeats = shapes[segment]
    return [(start + block + r * len(pattern), (r,)) for r in range(repeats)]


Split = Iterator[tuple[dict[str, Any], Index]]


def _split(template: str) -> str:
    return next((word for word in SPLITS if f"{{{word}}}" in template), "")


def _into_one(name: str, shape: tuple[int, ...], model: ModelConfig) -> Split:
    yield {}, ()


def _into_experts(name: str, shape: tuple[int, ...], model: ModelConfig) -> Split:
    for expert in range(shape[logical_axes(name).index("experts")]):
        yield {"expert": expert}, (expert,)


def _into_halves(name: str, shape: tuple[int, ...], model: ModelConfig) -> Split:
    """Cut the feed-forwards that lie side by side apart, along their hidden width."""
    count, width = model.moe.shared_feed_forwards, model.moe.d_expert
    before = logical_axes(name).index("d_ff") - 1  # the axis of layers is indexed already
    for i in range(count):
        index = (*[slice(None)] * before, slice(i * width, (i + 1) * width))
        yield {"half": f".mlp{i}" if count > 1 else ""}, index


SPLITS: Mapping[str, Callable[[str, tuple[int, ...], ModelConfig], Split]] = {
    "expert": _into_experts,
    "half": _into_halves,
    "": _into_one,
}
"""How a layer's parameter falls into tensors, by the field in the template that tells."""
