"""config.json of the official implementation and our config, either from the other."""

import dataclasses

import pytest

from cartesian_moe_jax.config import MoEConfig
from cartesian_moe_jax.interop.official_config import read_official, write_official
from cartesian_moe_jax.models.depth import layer_kinds
from cartesian_moe_jax.models.feed_forwards import moe_layers
from tests import official, official_files, tiny
from tests.messages import message_of

NOT_SAID = ("balance_loss", "z_loss", "backend", "first_layer", "interval", "offset")
"""Fields of an MoE layer that say how it is trained, or which layers they are."""


def golden_values(name):
    return official.meta(official_files.golden(name))["cfg"]


def read(values, has_table=False):
    return read_official(values, has_table=has_table, where="config.json")


@pytest.mark.parametrize("name", official_files.MODELS)
def test_golden_configs_mean_the_models_they_came_with(name):
    golden = official_files.golden(name)
    config = read(golden_values(name), has_table=name == "hash_from1")
    expected = official.model_config(golden)
    for field in ("d_model", "num_layers", "num_heads", "d_ff", "vocab_size", "rms_norm_eps"):
        assert getattr(config.model, field) == getattr(expected, field)
    for field in {f.name for f in dataclasses.fields(MoEConfig)} - set(NOT_SAID):
        assert getattr(config.model.moe, field) == getattr(expected.moe, field), field
    is_moe = [kind != "dense" for kind in layer_kinds(3, config.model.moe)]
    assert is_moe == [bool(n) for n in official.meta(golden)["moe_layers"]]
    assert config.data.seq_len == 64


@pytest.mark.parametrize("method", official_files.SAYABLE)
def test_methods_survive_a_round_trip(method):
    config = official_files.method_config(method)
    again = read(write_official(config))
    assert moe_layers(again.model) == moe_layers(config.model)
    if method != "dense":
        same = {f: getattr(config.model.moe, f) for f in NOT_SAID}
        if method == "top_p":  # it does not read top_k
            same["top_k"] = config.model.moe.top_k
        moe = dataclasses.replace(again.model.moe, **same)
        assert dataclasses.replace(again.model, moe=moe) == config.model
    assert write_official(again) == write_official(config)


@pytest.mark.parametrize(
    ("moe", "layers"),
    [
        ({"interval": 1}, [0, 1, 2, 3, 4]),
        ({"interval": 1, "first_layer": 2}, [2, 3, 4]),
        ({"interval": 2}, [0, 2, 4]),
        ({"interval": 3}, [0, 3]),
        ({"interval": 2, "first_layer": 3, "offset": 1}, [4]),
        ({"interval": 0}, []),
    ],
)
def test_places_of_moe_layers_survive_a_round_trip(moe, layers):
    config = tiny.config(model={"num_layers": 5, "moe": moe})
    assert moe_layers(config.model) == layers
    assert moe_layers(read(write_official(config)).model) == layers


def test_ends_of_text_and_window_are_said():
    values = write_official(tiny.config(), end_of_text=256)
    assert (values["bos_token_id"], values["eos_token_id"]) == (256, 256)
    assert values["max_position_embeddings"] == 16


UNREADABLE = [
    ({"hiden_size": 3}, "hiden_size is not a field of it; did you mean 'hidden_size'"),
    ({"vocab_size": None}, "vocab_size is missing"),
    ({"hidden_size": "32"}, "hidden_size='32' is not allowed: int"),
    ({"use_moe": 1}, "use_moe=1 is not allowed: bool"),
    ({"hidden_act": "gelu"}, "hidden_act='gelu' is not allowed: 'silu' is"),
    ({"tie_word_embeddings": True}, "tie_word_embeddings=True is not allowed: False is"),
    ({"rope_theta": 5e5}, "rope_theta=500000.0 is not allowed: 10000.0 is"),
    ({"num_key_value_heads": 2}, "num_key_value_heads=2 is not allowed: num_attention_heads=4"),
    ({"interleave_moe_layer": False}, "leaves open which layers are MoE"),
    ({"expert_interval": 0}, "expert_interval=0 is not allowed: at least 1"),
    ({"num_experts": 1}, "num_experts=1 is not allowed with use_moe=True: at least 2"),
    ({"fine_grain": True}, "c2_fine_grain=True and fine_grain=True contradict each other"),
    ({"grain_level": 0}, "grain_level=0 is not allowed: 1 to intermediate_size=48"),
    ({"moe_top_k": -1}, "moe_top_k=-1 is not allowed: at least 1, 0 (top-p) or -2 (hash)"),
    ({"moe_top_k": 0}, "moe_top_k=0 is not allowed with c2_fine_grain=True"),
    ({"moe_top_k": 5}, "config.model.moe.top_k=5 is not allowed: at most"),
    ({"num_attention_heads": 5}, "config.model.num_heads=5 is not allowed"),
]


@pytest.mark.parametrize(("changes", "expected"), UNREADABLE)
def test_what_we_cannot_run_is_an_error(changes, expected):
    values = golden_values("cartesian_interleave") | changes
    assert expected in message_of(read, values)


def test_a_table_of_tokens_contradicts_another_router():
    values = golden_values("hash_from1") | {"moe_top_k": 4}
    assert "moe_top_k=4 contradicts the tensor" in message_of(read, values, has_table=True)


UNSAYABLE = [
    ({"activation": "geglu"}, "config.model.activation='geglu' cannot be said"),
    ({"rope_base": 5e5}, "rope_base=500000.0 cannot be said in the official format: it has 10000"),
    ({"vocab_size": 0}, "vocab_size=0 cannot be said"),
    ({"moe": {"layer": "stacked"}}, "config.model.moe.layer='stacked' cannot be said"),
    ({"moe": {"sublayers": 3}}, "sublayers=3 cannot be said in the official format: it has 1 or 2"),
    ({"moe": {"num_experts": 1, "top_k": 1}}, "num_experts=1 cannot be said"),
    ({"moe": {"router": "top_p"}}, "router='top_p' cannot be said"),
    ({"moe": {"sublayers": 1, "router": "hash", "top_k": 3, "d_expert": 24}}, "top_k=3 cannot"),
    (
        {"moe": {"sublayers": 1, "router": "top_p", "top_p": 0.3, "d_expert": 24}},
        "top_p=0.3 cannot",
    ),
    (
        {"moe": {"sublayers": 1, "router": "hash", "table_per_sublayer": True, "d_expert": 24}},
        "table_per_sublayer=True cannot",
    ),
    ({"moe": {"shared_expert_not_in": "1"}}, "shared_expert_not_in='1' cannot be said"),
    ({"moe": {"shared_feed_forwards": 2}}, "shared_feed_forwards=2 cannot be said"),
    ({"moe": {"sublayers": 1, "shared_feed_forwards": 3}}, "shared_feed_forwards=3 cannot be said"),
    ({"moe": {"d_expert": 11}}, "d_expert=11 cannot be said"),
    ({"moe": {"sublayers": 1}}, "d_expert=12 cannot be said"),
    ({"num_layers": 5, "moe": {"offset": 1}}, "first_layer=0, interval=2, offset=1 cannot be said"),
]


@pytest.mark.parametrize(("model", "expected"), UNSAYABLE)
def test_what_they_cannot_say_is_an_error(model, expected):
    assert expected in message_of(write_official, tiny.config(model=model))
