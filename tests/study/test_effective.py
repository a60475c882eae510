"""What a record says of its run: the config it was trained with, and what a token costs."""

import dataclasses

import pytest

from cartesian_moe_jax import config as schema
from cartesian_moe_jax.models.build import abstract_model
from cartesian_moe_jax.models.matching import budget_of
from cartesian_moe_jax.models.methods import METHODS
from cartesian_moe_jax.models.parameters import named_parameters
from cartesian_moe_jax.parallel.layouts import LAYOUTS
from cartesian_moe_jax.study.costs import costs_of, most
from cartesian_moe_jax.study.effective import effective_config, shared_fields
from cartesian_moe_jax.study.plan import comparison_run, run_config
from cartesian_moe_jax.study.setting import config_of, flat
from cartesian_moe_jax.study.tuning import Rates
from cartesian_moe_jax.study.variants import parse_variants
from configs import study

CHANGED = "cartesian+model.moe.offset=1+optimizer.weight_decay=0.2"


def plain():
    config = schema.read(study.get_config("cpu").to_dict())
    return dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=512))


def trained(name, expert_rate=2.0, **measured):
    """The config that a variant is trained with, and its record."""
    run = comparison_run(parse_variants(name)[0], 0, Rates(0.004, expert_rate))
    config = run_config(plain(), run)
    budget = budget_of(plain().model)._asdict()
    setting = flat(plain()) | {f"{size}_parameters": value for size, value in budget.items()}
    return config, run.record(config, setting, **measured)


def test_the_config_of_a_setting_is_the_studys():
    assert flat(config_of(flat(plain()))) == flat(plain())
    assert config_of({"corpus": "of no field"}) == schema.Config()


@pytest.mark.parametrize("name", [*METHODS, CHANGED])
def test_the_effective_config_is_the_one_that_was_trained(name):
    config, record = trained(name)
    found, wanted = flat(effective_config(record)), flat(config)
    if not record.model["has_experts"]:
        wanted["optimizer.expert_rate"] = 1.0  # there are no experts that it could be the rate of
    assert found == wanted


def test_what_is_shared_is_equal_in_every_run():
    runs = [trained(name, x)[1] for name, x in [("smoe_share", 1.0), (CHANGED, 2.0)]]
    shared = shared_fields(runs)
    assert shared["optimizer.learning_rate"] == 0.004 and shared["model.moe.top_k"] == 2
    own = {"sublayers", "d_expert", "offset"}
    assert not {f"model.moe.{name}" for name in own} & set(shared)
    assert not {"optimizer.expert_rate", "optimizer.weight_decay", "total_parameters"} & set(shared)
    assert shared_fields(runs[:1])["model.moe.d_expert"] == 256


def use(*experts):
    """Loads of one sub-layer in two layers, in which tokens choose so many experts."""
    return {"load": [[[chosen / 8] * 8] for chosen in experts], "pairs": [[], []]}


def test_a_varying_number_of_experts_costs_what_was_measured():
    config, record = trained("top_p", routing_use=use(1.0, 2.0))
    other = dataclasses.replace(record, seed=1, routing_use=use(2.0, 2.0))
    measured, bound = costs_of({0: record, 1: other}), most(record)
    parameters = named_parameters(abstract_model(config.model, LAYOUTS["data"]))
    expert = sum(v.size for n, v in parameters.items() if "/experts/" in n) / 8
    # p = 0.4 of 8 experts: 4 at most; 1.75 were chosen on average.
    assert bound.active_parameters - measured.active_parameters == round(expert * (4 - 1.75))
    assert bound.forward_flops - measured.forward_flops == 2 * expert * (4 - 1.75)


def test_where_nothing_varies_or_was_measured_the_record_says_what_it_costs():
    for name, measured in [("top_p", {}), ("smoe_share", {"routing_use": use(1.0, 2.0)})]:
        record = trained(name, **measured)[1]
        assert costs_of({0: record}) == most(record)
