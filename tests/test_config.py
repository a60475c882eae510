"""The schema: what it accepts, and the one line that it says of anything else."""

import dataclasses

import pytest

from cartesian_moe_jax import config as schema
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.settings import describe, differences
from tests import tiny


@pytest.mark.parametrize(
    "values, words",
    [
        ({"model": {"d_modle": 3}}, ["config.model.d_modle", "did you mean 'd_model'"]),
        ({"modle": {}}, ["config.modle", "did you mean 'model'"]),
        ({"model": {"moe": {"top_k": 17}}}, ["top_k=17", "at most", "num_experts=16"]),
        ({"model": {"num_heads": 5}}, ["num_heads=5", "d_model=768"]),
        ({"model": {"d_model": 12, "num_heads": 12}}, ["num_heads=12", "even multiple"]),
        ({"model": {"d_model": "wide"}}, ["config.model.d_model='wide'", "int"]),
        ({"model": {"d_model": True}}, ["config.model.d_model=True", "int"]),
        ({"model": 3}, ["config.model=3", "section"]),
        ({"data": {"seq_len": 1}}, ["config.data.seq_len=1", "at least 2"]),
        ({"optimizer": {"learning_rate": float("nan")}}, ["learning_rate=nan", "finite"]),
        ({"optimizer": {"learning_rate": -1.0}}, ["learning_rate=-1.0", "above 0"]),
        ({"optimizer": {"beta1": 1.0}}, ["optimizer.beta1=1.0", "at least 0, below 1"]),
        ({"optimizer": {"beta2": 1}}, ["optimizer.beta2=1.0", "at least 0, below 1"]),
        ({"optimizer": {"beta2": -0.1}}, ["optimizer.beta2=-0.1", "at least 0, below 1"]),
        ({"training": {"batch_size": 10, "accumulate": 4}}, ["batch_size=10", "accumulate=4"]),
        ({"model": {"moe": {"top_p": 1.5}}}, ["config.model.moe.top_p=1.5", "0 to 1"]),
        ({"model": {"moe": {"shared_feed_forwards": 0}}}, ["shared_feed_forwards=0", "at least 1"]),
        (
            {"model": {"moe": {"shared_expert_not_in": "0,2"}}},
            ["shared_expert_not_in='0,2'", "0 to config.model.moe.sublayers - 1 = 1"],
        ),
        ({"model": {"moe": {"shared_expert_not_in": "a"}}}, ["shared_expert_not_in='a'", "commas"]),
        ({"model": {"moe": {"offset": 2}}}, ["offset=2", "below", "interval=2"]),
        (
            {"model": {"moe": {"shared_expert_not_in": "1", "shared_expert": False}}},
            ["shared_expert_not_in='1'", "shared_expert=False"],
        ),
        (
            {"model": {"num_layers": 2, "moe": {"first_layer": 1, "offset": 1}}},
            ["first_layer=1", "offset=1", "num_layers=2", "interval=0"],
        ),
        ({"parallel": {"expert": -2}}, ["config.parallel.expert=-2", "at least 1"]),
        ({"model": {"compute_dtype": "float16"}}, ["compute_dtype='float16'", "bfloat16"]),
    ],
)
def test_wrong_values_are_one_line(values, words):
    with pytest.raises(UserError) as caught:
        schema.read(values)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_round_trip_through_a_dict():
    config = tiny.config(model={"moe": {"z_loss": 0.5}})
    assert schema.read(dataclasses.asdict(config)) == config


def test_a_decay_of_zero_is_allowed():
    optimizer = schema.read({"optimizer": {"beta1": 0, "beta2": 0.0}}).optimizer
    assert (optimizer.beta1, optimizer.beta2) == (0.0, 0.0)


def test_ints_stand_for_floats():
    assert schema.read({"optimizer": {"learning_rate": 1}}).optimizer.learning_rate == 1.0


def test_differences_name_fields_that_a_resumed_run_must_keep():
    first = tiny.config()
    second = tiny.config(model={"d_model": 32}, training={"log_every": 1})
    assert differences(first, second) == ["model.d_model: 16 -> 32"]


def test_every_field_is_in_the_manual_with_a_meaning():
    lines = describe(schema.Config)
    assert len(lines) == len({line.split(" = ")[0] for line in lines}) > 40
    assert all(len(line.split(": ", 1)[1]) > 5 for line in lines)
