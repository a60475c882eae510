"""Variants: methods with changed fields, at matched budget."""

import dataclasses

import pytest

from cartesian_moe_jax import config as schema
from cartesian_moe_jax.config import StudyConfig
from cartesian_moe_jax.models.matching import budget_of, count
from cartesian_moe_jax.models.methods import METHODS
from cartesian_moe_jax.study.plan import (
    comparison_run,
    given_rates,
    require_untouched_rates,
    run_config,
    tuning_run,
)
from cartesian_moe_jax.study.tuning import Given, Rates
from cartesian_moe_jax.study.variants import Variant, bases_of, parse_variants, variant_config
from configs import study
from tests.messages import message_of

ABLATIONS = [
    "cartesian+model.moe.sublayers=3",
    "cartesian+model.moe.sublayers=4",
    "cartesian+model.activation=relu",
    "cartesian+model.activation=geglu",
    "cartesian+model.moe.shared_expert_not_in=0",
    "cartesian+model.moe.shared_expert_not_in=1",
    "cartesian+model.moe.top_k=1",
    "cartesian+model.moe.top_k=3",
    "cartesian+model.moe.balance_loss=0",
    "cartesian+model.moe.num_experts=16",
]


def plain():
    config = schema.read(study.get_config("cpu").to_dict())
    return dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=512))


def of(name):
    return variant_config(plain(), parse_variants(name)[0])


def test_a_list_is_read():
    assert parse_variants("dense, cartesian+model.moe.top_k=1+model.init_std=0.1") == [
        Variant("dense", "dense", ()),
        Variant(
            "cartesian+model.moe.top_k=1+model.init_std=0.1",
            "cartesian",
            (("model.moe.top_k", "1"), ("model.init_std", "0.1")),
        ),
    ]


@pytest.mark.parametrize("name", [*METHODS, *ABLATIONS])
def test_every_variant_with_experts_has_the_same_total(name):
    config, budget = of(name), budget_of(plain().model)
    wanted = budget.active if config.model.moe.layer == "stacked" else budget.total
    if name == "dense":
        wanted = budget.active
    assert count(config.model).total == pytest.approx(wanted, rel=0.01)


@pytest.mark.parametrize("name", ABLATIONS)
def test_a_change_is_in_the_config(name):
    path, value = name.split("+")[1].split("=")
    found = of(name)
    for part in path.split("."):
        found = getattr(found, part)
    assert str(found) in (value, f"{value}.0")


def test_dense_layers_are_the_same_in_all_methods_with_experts():
    assert {of(name).model.d_ff for name in METHODS if name != "dense"} == {256}


def test_a_width_that_is_named_is_kept():
    assert of("cartesian+model.moe.d_expert=64").model.moe.d_expert == 64


def test_what_is_not_of_the_model_can_be_changed_too():
    assert of("cartesian+optimizer.expert_rate=2").optimizer.expert_rate == 2
    assert of("cartesian+model.moe.shared_expert=false").model.moe.shared_expert is False


@pytest.mark.parametrize("tuning_steps, warmup, decay", [(0, 6, 5), (5, 2, 2), (1, 0, 1)])
def test_runs_that_tune_warm_up_and_decay_for_a_like_share(tuning_steps, warmup, decay):
    config = plain()
    fields = {"schedule": "wsd", "warmup_steps": 6, "decay_steps": 5}
    config = dataclasses.replace(
        config,
        optimizer=dataclasses.replace(config.optimizer, **fields),
        training=dataclasses.replace(config.training, steps=12),
        study=dataclasses.replace(config.study, tuning_steps=tuning_steps),
    )
    run = tuning_run(config.study, parse_variants("cartesian")[0], Rates(0.004))
    optimizer = run_config(config, run).optimizer
    assert (optimizer.warmup_steps, optimizer.decay_steps) == (warmup, decay)


@pytest.mark.parametrize("name, experts", [("cartesian", 2.0), ("dense_stacked", 1.0)])
def test_a_record_has_the_rates_that_were_trained_with(name, experts):
    run = comparison_run(parse_variants(name)[0], 0, Rates(0.004, 2.0))
    record = run.record(run_config(plain(), run), {})
    assert record.rates == {"learning_rate": 0.004, "expert_rate": experts}


@pytest.mark.parametrize(
    "changes, given",
    [
        ("", Given()),
        ("+optimizer.expert_rate=2", Given(expert_rate=2.0)),
        ("+optimizer.learning_rate=0.004", Given(learning_rate=0.004)),
        ("+optimizer.expert_rate=1+optimizer.weight_decay=0", Given(expert_rate=1.0)),
    ],
)
def test_rates_that_a_variant_names_are_given(changes, given):
    assert given_rates(plain(), parse_variants(f"cartesian{changes}")[0]) == given


@pytest.mark.parametrize("field, value", [("learning_rate", 0.004), ("expert_rate", 2.0)])
def test_a_rate_that_the_grid_would_replace_is_refused(field, value):
    config = plain()
    require_untouched_rates(config)
    optimizer = dataclasses.replace(config.optimizer, **{field: value})
    words = message_of(require_untouched_rates, dataclasses.replace(config, optimizer=optimizer))
    assert f"config.optimizer.{field}={value:g} is not allowed in a study" in words
    assert f"config.study.{field}s" in words and f"METHOD+optimizer.{field}={value:g}" in words


@pytest.mark.parametrize(
    "change",
    [
        "training.steps=5",
        "training.seed=1",
        "data.corpus=python",
        "evaluation.max_tokens=5",
        "study.seeds=1",
        "parallel.data=2",
        "profile=1:2",
        "model.vocab_size=4096",
    ],
)
def test_what_all_that_is_compared_must_share_cannot_be_changed(change):
    name, field = f"cartesian+{change}", change.split("=")[0]
    words = f"={name!r} is not allowed: {field} must be the same in all that is compared"
    assert f"config.study.methods{words}" in message_of(parse_variants, f"dense,{name}")
    assert f"config.study.reference{words}" in message_of(bases_of, StudyConfig(reference=name))
    assert f"config.study.bases{words}" in message_of(bases_of, StudyConfig(bases=f"dense,{name}"))


def test_bases_begin_with_the_reference_and_have_each_once():
    study = StudyConfig(reference="dense", bases="cartesian, dense,,cartesian+model.moe.offset=1")
    assert bases_of(study) == ["dense", "cartesian", "cartesian+model.moe.offset=1"]
    assert bases_of(StudyConfig(bases="")) == ["smoe_share"]
    assert "config.study.bases='moe' is unknown" in message_of(bases_of, StudyConfig(bases="moe"))


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "config.study.methods is empty"),
        ("dense,dense", "names dense twice"),
        ("carthesian", "config.study.methods='carthesian' is unknown: allowed are cartesian,"),
        ("cartesian+model.moe.top_k", "METHOD+FIELD=VALUE+... wanted"),
    ],
)
def test_wrong_lists_are_refused(text, words):
    assert words in message_of(parse_variants, text)


@pytest.mark.parametrize(
    "change, words",
    [
        ("model.moe.topk=1", "config.model.moe.topk is not a field; did you mean 'top_k' or "),
        ("modl.moe.top_k=1", "config.modl.moe.top_k is not a field"),
        ("model.moe=1", "config.model.moe is not a field"),
        ("model.moe.top_k=two", "config.model.moe.top_k='two' is not allowed: int wanted"),
        ("model.moe.shared_expert=2", "config.model.moe.shared_expert='2' is not allowed: bool"),
        ("model.moe.top_k=0", "config.model.moe.top_k=0 is not allowed: at least 1"),
        ("model.moe.top_k=9", "at most config.model.moe.num_experts=8"),
    ],
)
def test_wrong_changes_are_refused(change, words):
    assert words in message_of(of, f"cartesian+{change}")
