"""Which layers are MoE, and how the layers are cut into segments."""

import itertools

import pytest

from cartesian_moe_jax.config import ModelConfig, MoEConfig
from cartesian_moe_jax.models.depth import layer_kinds, segments


def letters(kinds):
    return "".join(kind[0] for kind in kinds)


def shapes(layers):
    """The segments of layers given by letters, as (pattern, repeats)."""
    return [("".join(pattern), repeats) for pattern, repeats in segments(layers)]


@pytest.mark.parametrize(
    "fields, expected",
    [
        ({}, "cdcdcd"),
        ({"offset": 1}, "dcdcdc"),
        ({"interval": 3}, "cddcdd"),
        ({"interval": 3, "offset": 2}, "ddcddc"),
        ({"interval": 1}, "cccccc"),
        ({"interval": 1, "first_layer": 2}, "ddcccc"),
        ({"interval": 2, "first_layer": 1, "offset": 1}, "ddcdcd"),
        ({"interval": 0}, "dddddd"),
        ({"first_layer": 6}, "dddddd"),
    ],
)
def test_moe_layers_by_interval_offset_and_first_layer(fields, expected):
    assert letters(layer_kinds(6, MoEConfig(**fields))) == expected


@pytest.mark.parametrize(
    "layers, expected",
    [
        ("cccc", [("c", 4)]),
        ("cdcdcd", [("cd", 3)]),
        ("cdcdc", [("cd", 2), ("c", 1)]),
        ("dcccc", [("d", 1), ("c", 4)]),
        ("ddcddc", [("ddc", 2)]),
        ("cddcddcd", [("cdd", 2), ("c", 1), ("d", 1)]),
        ("ddcdcd", [("d", 2), ("cd", 2)]),
        ("cd", [("c", 1), ("d", 1)]),
        ("c", [("c", 1)]),
        ("", []),
    ],
)
def test_segments(layers, expected):
    assert shapes(layers) == expected


def test_segments_unfold_to_the_layers():
    for layers in itertools.chain(*(itertools.product("cd", repeat=n) for n in range(9))):
        cut = segments(layers)
        assert tuple(itertools.chain(*(s.pattern * s.repeats for s in cut))) == layers


def test_the_paper_model_is_one_segment():
    config = ModelConfig()
    kinds = layer_kinds(config.num_layers, config.moe)
    assert segments(kinds) == [(("cartesian", "dense"), 6)]
