"""What a model costs, by part: every parameter once, and the parts add up."""

import json

import pytest

from cartesian_moe_jax import __main__ as command_line
from cartesian_moe_jax import config as schema
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.models.budget import (
    active_parameters,
    forward_flops_per_token,
    total_parameters,
    training_flops_per_token,
)
from cartesian_moe_jax.models.build import abstract_model
from cartesian_moe_jax.models.cost import model_cost, whole
from cartesian_moe_jax.models.methods import METHODS
from cartesian_moe_jax.models.parameters import named_parameters
from cartesian_moe_jax.parallel.layouts import LAYOUTS
from configs import paper


def base_model(method):
    return schema.read(paper.get_config(f"base,{method}").to_dict())


@pytest.mark.parametrize("method", METHODS)
def test_the_parts_add_up_to_the_model(method):
    config = base_model(method)
    parameters = named_parameters(abstract_model(config.model, LAYOUTS["data"]))
    cost, seq_len = whole(model_cost(config)), config.data.seq_len
    assert cost.total_parameters == total_parameters(parameters)
    assert cost.active_parameters == active_parameters(parameters, config.model)
    forward = forward_flops_per_token(parameters, config.model, seq_len)
    assert cost.forward_flops == pytest.approx(forward, rel=1e-12)
    training = training_flops_per_token(parameters, config.model, seq_len)
    assert cost.training_flops == pytest.approx(training, rel=1e-12)


def test_the_parts_of_the_papers_base_model():
    d, layers, moe, experts, d_expert, vocab = 768, 12, 6, 16, 1536, 32_000
    parts = model_cost(base_model("cartesian"))
    totals = {name: cost.total_parameters for name, cost in parts.items()}
    assert totals == {
        "embedding": vocab * d,
        "attention": layers * 4 * d * d,
        "routers": moe * 2 * d * experts,
        "routed experts": moe * 2 * experts * 3 * d * d_expert,
        "shared experts": moe * 2 * (3 * d * d_expert + 2 * d + 2),
        "dense feed-forward": (layers - moe) * 3 * d * 3072,
        "norms": d * (2 * layers + moe + 1),
        "head": vocab * d,
        "attention scores": 0,
    }
    routed = parts["routed experts"]
    assert routed.active_parameters == routed.total_parameters * 2 // 16
    assert routed.forward_flops == 2 * routed.active_parameters
    assert parts["embedding"].forward_flops == 0
    assert parts["attention scores"].forward_flops == layers * 4 * d * (1024 + 1) / 2


def test_frozen_parameters_take_no_optimizer_memory():
    config = base_model("hash")
    parts = model_cost(config)
    table, unused = 32_000 * 16, 6 * 768 * 16
    assert parts["routers"].total_parameters == table + unused
    assert parts["routers"].optimizer_bytes == parts["routers"].forward_flops == 0
    assert parts["routers"].checkpoint_bytes == 4 * (table + unused)
    assert parts["head"].optimizer_bytes == 8 * 768 * 32_000


def run(*arguments):
    parsed = command_line.parse(["budget", *arguments])
    parsed.run(parsed)


def test_the_verb_prints_a_table_and_writes_json(tmp_path, capsys):
    file = tmp_path / "budget.json"
    run("--config=configs/paper.py:base,cartesian", f"--json={file}")
    lines = capsys.readouterr().out.splitlines()
    assert "842,065,176" in lines[-1] and "247,522,584" in lines[-1]
    assert json.loads(file.read_text())["all"]["total_parameters"] == 842_065_176
    run("--config=configs/paper.py:base,cartesian", "--all_methods")
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()[1:]}
    assert list(rows) == list(METHODS)
    assert "842,051,340" in rows["fine_grained"]


@pytest.mark.parametrize("size, billions", [("30b", 30), ("120b", 120)])
def test_the_large_presets_have_the_size_of_their_name(size, billions, tmp_path):
    file = tmp_path / "budget.json"
    run(f"--config=configs/scale.py:{size},cartesian", f"--json={file}")
    whole = json.loads(file.read_text())["all"]
    assert whole["total_parameters"] == pytest.approx(billions * 1e9, rel=0.01)
    assert whole["active_parameters"] < whole["total_parameters"] / 6


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--config=configs/quickstart.py", "--all_methods"], "FILE:SIZE,METHOD"),
        (["--config=configs/scale.py:30b"], "scale.py:30b is not SIZE,METHOD"),
        (["--config=configs/paper.py:huge,cartesian"], "'huge' is unknown"),
        (["--config=configs/paper.py:base,best"], "'best' is unknown"),
    ],
)
def test_a_preset_without_methods_is_one_line(arguments, words):
    with pytest.raises(UserError) as caught:
        run(*arguments)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
