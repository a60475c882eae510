"""Parameters as the paper counts them, and FLOPs as a hand does."""

import dataclasses

import pytest

from cartesian_moe_jax import config as schema
from cartesian_moe_jax.config import ModelConfig
from cartesian_moe_jax.models.budget import (
    active_parameters,
    forward_flops_per_token,
    total_parameters,
    training_flops_per_token,
)
from cartesian_moe_jax.models.build import abstract_model
from cartesian_moe_jax.models.feed_forwards import moe_layers
from cartesian_moe_jax.models.parameters import named_parameters
from cartesian_moe_jax.parallel.layouts import LAYOUTS
from configs import paper
from tests import tiny

CONTROLS = ("dense_active", "dense_stacked")


def parameters_of(config):
    return named_parameters(abstract_model(config, LAYOUTS["data"]))


def paper_model(size, method):
    return schema.read(paper.get_config(f"{size},{method}").to_dict()).model


# Instantiated from the official implementation: SPECS section 1.7. Of smoe_top3, the totals go
# with dense layers as wide as its experts; only with those are the paper's active counts met.
@pytest.mark.parametrize(
    "size, method, total, active",
    [
        ("base", "dense", 162_417_408, 162_417_408),
        ("base", "smoe_share", 841_977_612, 247_435_020),
        ("base", "smoe_top3", 844_622_592, 258_042_624),
        ("base", "hash", 842_489_612, 247_947_020),
        ("base", "fine_grained", 842_051_340, 247_508_748),
        ("base", "cartesian", 842_065_176, 247_522_584),
        ("base", "cartesian_noshared", 799_579_392, 205_036_800),
        ("large", "dense", 468_239_360, 468_239_360),
        ("large", "smoe_share", 2_884_379_672, 770_450_456),
        ("large", "smoe_top3", 2_893_792_256, 808_174_592),
        ("large", "hash", 2_884_891_672, 770_962_456),
        ("large", "fine_grained", 2_884_576_280, 770_647_064),
        ("large", "cartesian", 2_884_613_168, 770_683_952),
        ("large", "cartesian_noshared", 2_733_569_024, 619_639_808),
        ("7b", "smoe_share", 7_245_269_024, 1_608_124_448),
        ("7b", "fine_grained", 7_245_793_312, 1_608_648_736),
        ("7b", "cartesian", 7_245_891_648, 1_608_747_072),
    ],
)
def test_parameters_of_the_paper(size, method, total, active):
    config = paper_model(size, method)
    parameters = parameters_of(config)
    assert total_parameters(parameters) == total
    assert active_parameters(parameters, config) == active


def test_top_p_has_the_parameters_of_smoe_share_and_a_bound_or_a_mean_of_active_ones():
    share, top_p = paper_model("base", "smoe_share"), paper_model("base", "top_p")
    parameters = parameters_of(top_p)
    assert total_parameters(parameters) == 841_977_612
    assert active_parameters(parameters, top_p, experts_per_token=2) == 247_435_020
    # At most 7 of 16 experts: 5 more than 2 in each of 6 layers.
    bound = 247_435_020 + 6 * 5 * 3 * 768 * 3072
    assert active_parameters(parameters, top_p) == bound
    assert active_parameters(parameters, top_p, experts_per_token=2.5) == 247_435_020 + round(
        6 * 0.5 * 3 * 768 * 3072
    )
    ours, theirs = (
        forward_flops_per_token(parameters_of(c), c, 1024, experts_per_token=2)
        for c in (top_p, share)
    )
    assert ours == theirs


@pytest.mark.parametrize("size", ["base", "large", "7b"])
def test_the_controls_match_cartesian_in_what_they_control_for(size):
    models = {m: paper_model(size, m) for m in ("cartesian", "dense", *CONTROLS)}
    active = {m: active_parameters(parameters_of(c), c) for m, c in models.items()}
    # Routers, coefficients and one norm a layer are what cartesian has beyond it.
    assert active["dense_active"] == pytest.approx(active["cartesian"], rel=1e-3)
    gains = len(moe_layers(models["cartesian"])) * models["dense"].d_model
    assert active["dense_stacked"] == active["dense"] + gains


def test_a_hash_router_costs_nothing():
    hashed, share = paper_model("base", "hash"), paper_model("base", "smoe_share")
    ours, theirs = (
        forward_flops_per_token(parameters_of(c), c, seq_len=1024) for c in (hashed, share)
    )
    assert theirs - ours == 6 * 2 * 768 * 16


def test_the_default_model_is_the_base_of_the_paper():
    assert dataclasses.replace(ModelConfig(), vocab_size=32_000) == paper_model("base", "cartesian")


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
