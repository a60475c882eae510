"""Parameters as the paper counts them, and FLOPs as a hand does."""

import dataclasses

import pytest

from cartesian_moe_jax.config import ModelConfig, MoEConfig
from cartesian_moe_jax.models.budget import (
    active_parameters,
    forward_flops_per_token,
    moe_layers,
    total_parameters,
    training_flops_per_token,
)
from cartesian_moe_jax.models.build import abstract_model
from cartesian_moe_jax.models.parameters import named_parameters
from cartesian_moe_jax.parallel.layouts import LAYOUTS
from tests import tiny

SIZES = {
    "base": ModelConfig(vocab_size=32_000),
    "large": ModelConfig(
        d_model=1024, num_layers=24, num_heads=16, d_ff=4096, vocab_size=32_000,
        moe=MoEConfig(d_expert=2048),
    ),
    "7.25b": ModelConfig(
        d_model=2048, num_layers=16, num_heads=16, d_ff=4096, vocab_size=32_000,
        moe=MoEConfig(interval=1, d_expert=2048),
    ),
}  # fmt: skip
METHODS = {
    "dense": lambda size: {"interval": 0},
    "cartesian": lambda size: {},
    "cartesian without shared": lambda size: {"shared_expert": False},
    "smoe_share": lambda size: {"sublayers": 1, "d_expert": size.d_ff},
}


def parameters_of(config):
    return named_parameters(abstract_model(config, LAYOUTS["data"]))


# Instantiated from the official implementation: SPECS section 1.7.
@pytest.mark.parametrize(
    "size, method, total, active",
    [
        ("base", "dense", 162_417_408, 162_417_408),
        ("base", "cartesian", 842_065_176, 247_522_584),
        ("base", "cartesian without shared", 799_579_392, 205_036_800),
        ("base", "smoe_share", 841_977_612, 247_435_020),
        ("large", "dense", 468_239_360, 468_239_360),
        ("large", "cartesian", 2_884_613_168, 770_683_952),
        ("large", "cartesian without shared", 2_733_569_024, 619_639_808),
        ("7.25b", "cartesian", 7_245_891_648, 1_608_747_072),
        ("7.25b", "smoe_share", 7_245_269_024, 1_608_124_448),
    ],
)
def test_parameters_of_the_paper(size, method, total, active):
    config = SIZES[size]
    moe = dataclasses.replace(config.moe, **METHODS[method](config))
    config = dataclasses.replace(config, moe=moe)
    parameters = parameters_of(config)
    assert total_parameters(parameters) == total
    assert active_parameters(parameters, config) == active


def test_the_default_model_is_the_base_of_the_paper():
    assert dataclasses.replace(ModelConfig(), vocab_size=32_000) == SIZES["base"]


def test_flops_of_a_tiny_model_by_hand():
    # One Cartesian and one dense layer: d_model 16, d_ff 24, vocabulary 384;
    # two sub-layers of 4 sub-experts of width 12, each token uses 2 and the shared one.
    config = tiny.model_config(num_layers=2)
    projections = 4 * 16 * 16
    dense = 3 * 16 * 24
    sublayer = 16 * 4 + (2 + 1) * 3 * 16 * 12 + 16 * 2  # router, experts, coefficient
    head = 16 * 384
    matmuls = 2 * (2 * projections + dense + 2 * sublayer + head)
    # The mean position of 7 reads 4: 16 multiply-adds each for its score, and for its value.
    attention = 2 * (2 * 16 + 2 * 16) * 4
    parameters = parameters_of(config)
    assert forward_flops_per_token(parameters, config, seq_len=7) == matmuls + attention
    assert training_flops_per_token(parameters, config, seq_len=7) == 3 * (matmuls + attention)


def test_moe_layers_are_listed_by_depth():
    assert moe_layers(tiny.model_config(num_layers=5, moe={"offset": 1})) == [1, 3]
    assert moe_layers(tiny.model_config(moe={"interval": 0})) == []
