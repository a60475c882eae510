"""Widths that match: every method within the budget, by counting what was built."""

import dataclasses

import pytest

from cartesian_moe_jax import config as schema
from cartesian_moe_jax.models.matching import (
    Budget,
    budget_of,
    count,
    plain_layer,
    with_matching_width,
)
from cartesian_moe_jax.models.methods import METHODS, with_method
from configs import study
from tests.messages import message_of

DENSE = ("dense", "dense_active", "dense_stacked")
ROUTED = sorted(set(METHODS) - set(DENSE))
PRESETS = sorted(study.PRESETS)
VOCABULARY = {"smoke": 384, "cpu": 2048, "gpu": 8192}


def preset_model(preset, **fields):
    model = schema.read(study.get_config(preset).to_dict()).model
    return dataclasses.replace(model, vocab_size=VOCABULARY[preset], **fields)


def matched(model, method):
    changed = with_method(model, method, plain_layer(model))
    return with_matching_width(dataclasses.replace(changed, d_ff=model.d_ff), budget_of(model))


def deviation(found, wanted):
    return abs(found / wanted - 1)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("method", ROUTED)
def test_methods_with_experts_match_the_total(preset, method):
    model = preset_model(preset)
    assert deviation(count(matched(model, method)).total, budget_of(model).total) < 0.01


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("method", ["smoe_share", "fine_grained", "cartesian", *DENSE])
def test_methods_whose_form_allows_it_match_the_active_parameters(preset, method):
    model = preset_model(preset)
    assert deviation(count(matched(model, method)).active, budget_of(model).active) < 0.01


def test_hash_matches_but_for_its_frozen_table_of_which_a_token_reads_one_row():
    model = preset_model("cpu")
    table = model.vocab_size * model.moe.num_experts
    active = count(matched(model, "hash")).active - table
    assert deviation(active, budget_of(model).active) < 0.01


def test_the_reference_keeps_the_width_that_the_budget_came_from():
    model = preset_model("cpu")
    assert matched(model, "smoe_share").moe.d_expert == model.d_ff


def test_without_shared_experts_the_width_grows_by_what_they_had():
    """E + 1 halves of D/2 in each sub-layer become E of (E + 1) D / 2E: 144 = 9/8 x 128."""
    assert matched(preset_model("cpu"), "cartesian_noshared").moe.d_expert == 144


@pytest.mark.parametrize("sublayers", [1, 2, 3, 4])
def test_any_number_of_sub_layers_matches(sublayers):
    model = preset_model("cpu")
    changed = with_method(model, "cartesian", plain_layer(model))
    moe = dataclasses.replace(changed.moe, sublayers=sublayers)
    budget = budget_of(model)
    found = with_matching_width(dataclasses.replace(changed, moe=moe), budget)
    assert deviation(count(found).total, budget.total) < 0.01
    assert found.moe.d_expert == pytest.approx(256 / sublayers, rel=0.03)


def test_a_plain_activation_gets_wider_experts_as_it_has_no_gate():
    model = preset_model("cpu", activation="gelu")
    gated = budget_of(dataclasses.replace(model, activation="swiglu"))
    changed = with_method(model, "cartesian", plain_layer(model))
    assert with_matching_width(changed, gated).moe.d_expert > 1.4 * 128


def test_a_budget_below_width_one_is_refused():
    model = preset_model("smoke")
    words = message_of(with_matching_width, model, Budget(1000, 1000))
    assert "no width gives this model 1,000 parameters: the least is" in words
