"""Which experts tokens use: by hand, by a loop over tokens, of a run."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cartesian_moe_jax import config as schema
from cartesian_moe_jax.data import ByteTokenizer, evaluation_batches
from cartesian_moe_jax.data.parts import Part
from cartesian_moe_jax.errors import UserError
from cartesian_moe_jax.evaluation.evaluator import Evaluator
from cartesian_moe_jax.evaluation.of_run import Asked, routing_use_of_run
from cartesian_moe_jax.evaluation.routing_use import (
    RoutingCounts,
    RoutingUse,
    composed_experts,
    count_uses,
    effective_number,
    mixed_use,
)
from cartesian_moe_jax.evaluation.routing_use_table import routing_use_table
from cartesian_moe_jax.models.build import abstract_parameters
from cartesian_moe_jax.models.parameters import named_parameters
from cartesian_moe_jax.parallel.layouts import LAYOUTS
from cartesian_moe_jax.parallel.mesh import make_mesh
from tests import processes, tiny
from tests.packing import numbered_lines, pack_texts

SEQ, BATCH = 16, 8
BY_HASH = {"router": "hash", "balance_loss": 0.0, "table_per_sublayer": True}


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """350 tokens or so: two batches of 128, and a third that is padded."""
    folder = tmp_path_factory.mktemp("routing_use")
    packed = pack_texts(folder, {"a.txt": numbered_lines(71)}, validation_share=0.5)
    split = packed.split("validation")
    assert 2 < (len(split) - 1) / (SEQ * BATCH) < 3
    return split


def tiny_config(moe, **sections):
    model = {"num_layers": 3, "init_std": 0.3, "moe": {"backend": "reference", **moe}}
    return schema.read(tiny.values(model=model, evaluation={"max_tokens": 0}, **sections))


def measured(config, parts, stride=0):
    """What a tiny model uses, on the mesh of its config."""
    parallel, layout = config.parallel, LAYOUTS[config.parallel.layout]
    mesh = make_mesh(parallel, jax.devices()[: parallel.data * max(parallel.expert, 1)])
    with jax.set_mesh(mesh):
        evaluator = Evaluator(config, parts, ByteTokenizer(), mesh, layout)
        wanted = abstract_parameters(evaluator.skeleton, layout, mesh)
        shardings = {name: shape.sharding for name, shape in wanted.items()}
        parameters = jax.device_put(named_parameters(tiny.model(config.model)), shardings)
        return evaluator.routing_use(parameters, stride)


# Two sub-layers of three experts: token by token, the experts that it uses in either.
BY_HAND = [((0,), (1,)), ((0, 2), (1, 2)), ((2,), (2,)), ((1, 2), (0, 1))]


def one_hot(experts):
    return np.isin(np.arange(3), experts)


def counted(mask):
    choices = np.array([[[one_hot(token[s]) for token in BY_HAND] for s in (0, 1)]])
    return count_uses(jnp.asarray(choices), jnp.asarray(mask))


def test_counts_of_hand_made_choices():
    counts = counted([True] * 4)
    assert counts.tokens == 4
    np.testing.assert_array_equal(counts.load, [[[2, 1, 3], [1, 3, 2]]])
    np.testing.assert_array_equal(counts.pairs, [[[[0, 2, 1], [1, 1, 0], [1, 2, 2]]]])


def test_masked_tokens_do_not_count():
    counts = counted([True, True, False, False])
    assert counts.tokens == 2
    np.testing.assert_array_equal(counts.load, [[[2, 0, 1], [0, 2, 1]]])
    np.testing.assert_array_equal(counts.pairs, [[[[0, 2, 1], [0, 0, 0], [0, 1, 1]]]])


def host(counts):
    return RoutingCounts(*map(np.asarray, counts))


def test_use_of_one_part_is_its_counts_per_token_and_per_combination():
    use = mixed_use([host(counted([True] * 4))], [1.0])
    assert use.tokens == 4
    np.testing.assert_allclose(use.load, [[[2 / 4, 1 / 4, 3 / 4], [1 / 4, 3 / 4, 2 / 4]]])
    np.testing.assert_allclose(use.pairs, np.array([[[[0, 2, 1], [1, 1, 0], [1, 2, 2]]]]) / 10)
    np.testing.assert_allclose(use.experts_per_token(), [[1.5, 1.5]])
    np.testing.assert_allclose(use.relative_load()[0, 0], [1, 0.5, 1.5])


def test_a_mixture_is_weighted_and_not_by_its_tokens():
    parts = [
        host(counted(mask)) for mask in ([True, False, False, False], [False, False, True, True])
    ]
    use = mixed_use(parts, [0.25, 0.75])
    assert use.tokens == 3
    # The first part: one token, of experts 0 and 1. The other: two.
    load = 0.25 * np.array([[1, 0, 0], [0, 1, 0]]) + 0.75 * np.array([[0, 0.5, 1], [0.5, 0.5, 0.5]])
    np.testing.assert_allclose(use.load, [load])
    first = np.array([[0, 1, 0], [0, 0, 0], [0, 0, 0]])
    other = np.array([[0, 0, 0], [1, 1, 0], [1, 1, 1]]) / 2
    pairs = 0.25 * first + 0.75 * other
    np.testing.assert_allclose(use.pairs, [[pairs / pairs.sum()]])


def test_effective_numbers_of_given_distributions():
    shares = np.array([[0.25] * 4, [0, 1, 0, 0], [0.5, 0.25, 0.25, 0]])
    np.testing.assert_allclose(effective_number(shares), [4, 1, 2**1.5])
    assert effective_number(np.array([0.5, 0.5])) == pytest.approx(2)


def test_composed_experts_of_given_pairs():
    # Each expert is followed by one other; and neither choice tells about the other.
    bound = np.eye(4)[[2, 0, 3, 1]] / 4
    free = np.outer([0.5, 0.25, 0.25, 0], [0, 0.5, 0.5, 0])
    composed = composed_experts(np.stack([bound, free]))
    assert composed.possible == 16
    np.testing.assert_allclose(composed.effective, [4, 2**2.5])
    np.testing.assert_allclose(composed.independent, [16, 2**2.5])
    np.testing.assert_allclose(composed.mutual_information, [math.log(4), 0], atol=1e-12)


def test_use_is_json_with_what_it_comes_to():
    use = mixed_use([host(counted([True] * 4))], [1.0])
    told = json.loads(json.dumps(use.as_dict()))
    assert told["tokens"] == 4
    assert told["load"] == use.load.tolist()
    assert told["pairs"] == use.pairs.tolist()
    load_entropy = -sum(p * math.log(p) for p in (2 / 6, 1 / 6, 3 / 6))
    assert told["effective_experts"][0][0] == pytest.approx(math.exp(load_entropy))
    composed = told["composed_experts"]
    pair_entropy = -sum(n * p * math.log(p) for n, p in ((4, 0.1), (3, 0.2)))
    assert composed["effective"] == [[pytest.approx(math.exp(pair_entropy))]]
    gap = math.log(composed["independent"][0][0] / composed["effective"][0][0])
    assert composed["mutual_information"] == [[pytest.approx(gap)]]
    assert composed["possible"] == 9


def by_a_loop(config, split, stride):
    """Load and pairs, token by token in numpy."""
    model = tiny.model(config.model)
    hidden = jax.jit(lambda tokens: model.hidden(tokens, keep_choices=True)[1].choices)
    batches = list(evaluation_batches(split, SEQ, BATCH, stride=stride))
    choices = np.concatenate([hidden(tokens[:, :-1]) for tokens, _ in batches], axis=2)
    mask = np.concatenate([mask.reshape(-1) for _, mask in batches])
    layers, sublayers, _, experts = choices.shape
    load = np.zeros((layers, sublayers, experts))
    pairs = np.zeros((layers, sublayers - 1, experts, experts))
    for token in np.flatnonzero(mask):
        for layer in range(layers):
            ids = [np.flatnonzero(choices[layer, s, token]) for s in range(sublayers)]
            for s in range(sublayers):
                load[layer, s, ids[s]] += 1
            for s in range(sublayers - 1):
                for a in ids[s]:
                    pairs[layer, s, a, ids[s + 1]] += 1
    return load / mask.sum(), pairs / pairs.sum((-2, -1), keepdims=True), int(mask.sum())


@pytest.mark.parametrize(
    "moe, stride",
    [
        ({"sublayers": 3, "interval": 1}, 0),
        ({"top_k": 1}, 4),
        ({"router": "top_p", "top_p": 0.4}, 0),
        (BY_HASH, 0),
        ({"sublayers": 1}, 0),
    ],
)
def test_equals_a_loop_over_the_tokens(split, moe, stride):
    config = tiny_config(moe)
    use = measured(config, [Part("all", 1.0, split)], stride)
    load, pairs, tokens = by_a_loop(config, split, stride)
    assert use.tokens == tokens == len(split) - 1
    np.testing.assert_allclose(use.load, load, rtol=1e-6)
    np.testing.assert_allclose(use.pairs, pairs, rtol=1e-6)
    assert len(np.unique(load)) > 1, "experts must differ for this to tell anything"
    if moe.get("sublayers") == 1:
        assert use.pairs.shape == (2, 0, 4, 4)
        assert use.as_dict()["composed_experts"]["effective"] == [[], []]


def test_load_equals_the_load_of_the_statistics(split):
    config = tiny_config({})
    config = dataclasses.replace(
        config, evaluation=dataclasses.replace(config.evaluation, max_tokens=SEQ * BATCH)
    )
    use = measured(config, [Part("all", 1.0, split)])
    tokens, mask = next(evaluation_batches(split, SEQ, BATCH))
    _, stats = tiny.model(config.model).hidden(jnp.asarray(tokens[:, :-1]))
    assert use.tokens == mask.sum() == SEQ * BATCH
    np.testing.assert_allclose(use.load, stats.load, rtol=1e-6)
    np.testing.assert_allclose(use.experts_per_token(), 2, rtol=1e-6)


def test_padding_tokens_do_not_matter(split, monkeypatch):
    config = tiny_config({})
    expected = measured(config, [Part("all", 1.0, split)])

    def padded_otherwise(*arguments):
        for tokens, mask in evaluation_batches(*arguments):
            is_text = np.pad(mask, ((0, 0), (1, 0)), constant_values=True)
            yield np.where(is_text, tokens, 99), mask

    monkeypatch.setattr(
        "cartesian_moe_jax.evaluation.evaluator.evaluation_batches", padded_otherwise
    )
    found = measured(config, [Part("all", 1.0, split)])
    np.testing.assert_array_equal(found.load, expected.load)
    np.testing.assert_array_equal(found.pairs, expected.pairs)


@pytest.mark.parametrize(
    "parallel", [{"data": 8}, {"layout": "expert", "data": 2, "expert": 4}], ids=["data", "expert"]
)
def test_devices_share_the_tokens_of_one_count(split, parallel):
    alone = measured(tiny_config({}), [Part("all", 1.0, split)])
    together = measured(tiny_config({}, parallel=parallel), [Part("all", 1.0, split)])
    assert together.tokens == alone.tokens
    np.testing.assert_allclose(together.load, alone.load, rtol=1e-6)
    np.testing.assert_allclose(together.pairs, alone.pairs, rtol=1e-6)


def test_a_model_without_experts_uses_none(split):
    assert measured(tiny_config({"interval": 0}), [Part("all", 1.0, split)]) is None


USE = RoutingUse(
    load=np.array([[[0.5, 1.5], [1.0, 1.0]]]),
    pairs=np.array([[[[0.5, 0.0], [0.0, 0.5]]]]),
    tokens=1234,
)


def test_the_table_of_given_numbers():
    heading, columns, first, second, pair_columns, pair = routing_use_table(
        USE.as_dict() | {"layers": [5]}
    ).splitlines()
    assert heading == "1,234 tokens, 2 experts in each sub-layer"
    assert "busiest" in columns and "idlest" in columns
    assert first.split() == ["5", "0", "1.50x", "0.50x", "1.75", "2.00"]
    assert second.split() == ["5", "1", "1.00x", "1.00x", "2.00", "2.00"]
    assert "were choices independent" in pair_columns
    assert " ".join(pair.split()) == "5 0 and 1 2.00 of 4 4.00 0.6931 nats"
    lengths = {len(line) for line in (columns, first, second)}
    assert len(lengths) == 1, "the columns are aligned"


def test_the_table_of_a_plain_moe_layer_has_no_pairs():
    plain = USE._replace(load=USE.load[:, :1], pairs=USE.pairs[:, :0])
    assert len(routing_use_table(plain.as_dict() | {"layers": [0]}).splitlines()) == 3


@pytest.mark.long
def test_eval_prints_the_table_of_a_run_and_leaves_the_numbers(finished_run):
    workdir = finished_run.workdir
    command = ["eval.py", f"--workdir={workdir}", "--routing_use"]
    status, out, err = processes.finish(processes.start(*command))
    assert status == 0, err
    file = workdir / "routing_use.json"
    written = json.loads(file.read_text())
    file.unlink()
    assert routing_use_table(written) in out
    assert str(file) in out
    assert not (workdir / "robustness.json").exists()
    assert written["layers"] == [0]
    assert np.shape(written["load"]) == (1, 2, 4)
    assert np.shape(written["pairs"]) == (1, 1, 4, 4)
    assert written["tokens"] == finished_run.result["validation"]["tokens"]
    again = routing_use_of_run(workdir, asked=Asked(max_tokens=100))
    assert again["tokens"] == 100 < written["tokens"]


def test_a_run_without_experts_is_one_line(finished_run, monkeypatch):
    monkeypatch.setattr(Evaluator, "routing_use", lambda *_: None)
    with pytest.raises(UserError, match="--routing_use is not defined for a model without"):
        routing_use_of_run(finished_run.workdir)
    assert not (finished_run.workdir / "routing_use.json").exists()
