"""Whole models in the official format: their logits, and round trips that change no bit."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open

import cartesian_moe_jax as cmoe
from cartesian_moe_jax.config import Config, ModelConfig
from cartesian_moe_jax.interop.official_config import read_official, write_official
from cartesian_moe_jax.interop.official_model import read_model, write_model
from cartesian_moe_jax.interop.official_names import all_pieces
from cartesian_moe_jax.interop.safetensors_files import TensorFiles
from cartesian_moe_jax.models.build import abstract_model
from cartesian_moe_jax.models.methods import PlainLayer, with_method
from cartesian_moe_jax.models.parameters import named_parameters
from cartesian_moe_jax.parallel.layouts import LAYOUTS
from cartesian_moe_jax.parallel.mesh import single_device_mesh
from tests import official_files, tiny
from tests.messages import message_of

MODELS, METHODS = official_files.MODELS, official_files.SAYABLE
MESH = single_device_mesh()


def tensors_of(folder):
    with TensorFiles(folder) as files:
        return {name: files.read(name) for name in files.shapes}


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], name, strict=True)


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_the_official_model(name, tmp_path):
    golden = official_files.golden(name)
    lm = cmoe.load(official_files.golden_folder(tmp_path / name, name))
    with jax.default_matmul_precision("highest"):
        logits = lm.logits(golden["input_ids"])
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, golden["logits"], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_official_to_ours_to_official_changes_nothing(name, dtype, tmp_path):
    theirs = official_files.golden_folder(tmp_path / "in", name, np.dtype(dtype))
    config, parameters = read_model(theirs, MESH)
    assert {value.dtype.name for value in parameters.values()} == {"float32"}
    (tmp_path / "out").mkdir()
    write_model(tmp_path / "out", config, parameters, dtype=dtype)
    assert_equal(tensors_of(theirs), tensors_of(tmp_path / "out"))
    assert read_model(tmp_path / "out", MESH)[0] == config


@pytest.mark.parametrize("method", METHODS)
def test_ours_to_official_to_ours_changes_nothing(method, tmp_path):
    config, parameters = official_files.method_folder(tmp_path / "out", method)
    again, read = read_model(tmp_path / "out", MESH)
    assert_equal(parameters, read)
    assert again.data.seq_len == config.data.seq_len
    model = tiny.model(again.model)
    assert named_parameters(model).keys() == parameters.keys()


SIZES = {
    "dense": {"layers.0.mlp.down_proj.weight": (16, 24)},
    "smoe_share": {
        "layers.0.mlp.3.gate_proj.weight": (24, 16),
        "layers.0.wg.weight": (4, 16),
        "layers.0.coefficient.weight": (2, 16),
        "layers.0.coefficient.bias": (2,),
        "layers.0.res_mlp.down_proj.weight": (16, 24),
        "layers.1.mlp.up_proj.weight": (24, 16),
    },
    "smoe_top3": {"layers.2.mlp.0.down_proj.weight": (16, 30)},
    "top_p": {"layers.2.wg.weight": (4, 16), "layers.2.res_mlp.up_proj.weight": (24, 16)},
    "hash": {"router_tokens.weight": (384, 4), "layers.2.wg.weight": (4, 16)},
    "fine_grained": {
        "layers.2.mlp.7.up_proj.weight": (12, 16),
        "layers.2.res_mlp.mlp1.down_proj.weight": (16, 12),
    },
    "cartesian": {
        "layers.2.mlp0.3.up_proj.weight": (12, 16),
        "layers.2.wg1.weight": (4, 16),
        "layers.2.coefficient0.bias": (2,),
        "layers.2.res_mlp1.gate_proj.weight": (12, 16),
        "layers.2.mlp_layernorm.weight": (16,),
        "layers.2.post_attention_layernorm.weight": (16,),
        "norm.weight": (16,),
    },
    "cartesian_noshared": {"layers.0.mlp1.0.down_proj.weight": (16, 12)},
}


@pytest.mark.parametrize("method", METHODS)
def test_names_and_shapes_are_the_official_ones(method, tmp_path):
    _, parameters = official_files.method_folder(tmp_path / "out", method)
    with TensorFiles(tmp_path / "out") as files:
        shapes = files.shapes
    assert {f"model.{n}": s for n, s in SIZES[method].items()}.items() <= shapes.items()
    assert sum(np.prod(s) for s in shapes.values()) == sum(p.size for p in parameters.values())
    shared = method not in ("dense", "smoe_top3", "cartesian_noshared")
    assert any("res_mlp" in name or "coefficient" in name for name in shapes) == shared


BASE = {
    "dense": 162_417_408,
    "smoe_share": 841_977_612,
    "smoe_top3": 844_622_592,
    "hash": 842_489_612,
    "fine_grained": 842_051_340,
    "cartesian": 842_065_176,
    "cartesian_noshared": 799_579_392,
}
"""Parameters of the official code's Base models."""


@pytest.mark.parametrize("method", BASE)
def test_base_models_have_as_many_parameters_as_the_official_ones(method):
    base = ModelConfig(vocab_size=32_000)
    model = with_method(base, method, PlainLayer(d_ff=3072, num_experts=16, top_k=2))
    shapes = named_parameters(abstract_model(model, LAYOUTS["data"]))
    sizes = [np.prod(p.official_shape()) for _, p in all_pieces(shapes, model).values()]
    assert sum(sizes) == BASE[method]
    again = read_official(write_official(Config(model)), has_table=method == "hash", where="it")
    assert named_parameters(abstract_model(again.model, LAYOUTS["data"])) == shapes


def test_shards_are_small_and_listed(tmp_path):
    config, parameters = read_model(official_files.golden_folder(tmp_path / "in", MODELS[0]), MESH)
    (tmp_path / "out").mkdir()
    write_model(tmp_path / "out", config, parameters, shard_bytes=40_000)
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 3
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    assert all((tmp_path / "out" / file).stat().st_size < 50_000 for file in files)
    for name, file in index["weight_map"].items():
        with safe_open(tmp_path / "out" / file, framework="np") as shard:
            assert name in shard.keys()  # noqa: SIM118
    whole = tensors_of(tmp_path / "in")
    assert_equal(whole, tensors_of(tmp_path / "out"))
    assert index["metadata"]["total_size"] == sum(w.nbytes for w in whole.values())
    assert_equal(parameters, read_model(tmp_path / "out", MESH)[1])


def test_a_bfloat16_model_has_the_logits_of_its_rounded_weights(tmp_path):
    golden = official_files.golden("finegrain_all")
    rounded = official_files.golden_folder(tmp_path / "in", "finegrain_all", ml_dtypes.bfloat16)
    np.testing.assert_allclose(
        cmoe.load(rounded).logits(golden["input_ids"]), golden["logits"], rtol=0.1, atol=0.02
    )


def test_tensors_that_do_not_fit_are_listed_in_one_line(tmp_path):
    tensors = official_files.golden_tensors("cartesian_interleave")
    config = official_files.official.meta(official_files.golden("cartesian_interleave"))["cfg"]
    tensors["lm_head.weight"] = tensors["lm_head.weight"][:96]
    del tensors["model.layers.2.wg1.weight"]
    tensors["model.layers.9.wg1.weight"] = np.ones(3, np.float32)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
    folder = official_files.folder_of(tmp_path / "in", tensors, config)
    assert message_of(cmoe.load, folder) == (
        f"{folder} does not fit its config.json: lm_head.weight is [96, 32], wanted [97, 32]; "
        "model.layers.2.wg1.weight is missing; model.layers.9.wg1.weight is extra"
    )
    folder = official_files.folder_of(tmp_path / "in", {"x": np.ones(3, np.float32)}, config)
    assert message_of(cmoe.load, folder).endswith("is missing; and 93 more")


def test_buffers_that_older_versions_save_are_left_alone(tmp_path):
    tensors = official_files.golden_tensors("hash_from1")
    config = official_files.official.meta(official_files.golden("hash_from1"))["cfg"]
    plain = read_model(official_files.folder_of(tmp_path / "plain", tensors, config), MESH)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
    read = read_model(official_files.folder_of(tmp_path / "in", tensors, config), MESH)
    assert read[0] == plain[0]
    assert_equal(read[1], plain[1])


def broken_index(text):
    def damage(folder):
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(text)

    return damage


def quantised(folder):
    tensors = tensors_of(folder) | {"model.norm.weight": np.ones(32, np.int8)}
    config = json.loads((folder / "config.json").read_text())
    official_files.folder_of(folder, tensors, config)


def pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


DAMAGE = {
    "save its pytorch_model.bin as safetensors first": pickled,
    "holds no model.safetensors": lambda f: (f / "model.safetensors").unlink(),
    "cannot be read": lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 100),
    "config.json cannot be read": lambda f: (f / "config.json").write_text("{"),
    "model.norm.weight is I8: F32, BF16, F16 are read": quantised,
    "holds no weight_map": broken_index("[]"),
    "a plain file name is wanted": broken_index('{"weight_map": {"a": "../x.safetensors"}}'),
    "x.safetensors is missing": broken_index('{"weight_map": {"a": "x.safetensors"}}'),
}


@pytest.mark.parametrize("expected", DAMAGE)
def test_damaged_folders_are_errors(expected, tmp_path):
    folder = official_files.golden_folder(tmp_path / "in", "hash_from1")
    DAMAGE[expected](folder)
    message = message_of(cmoe.load, folder)
    assert expected in message
    assert str(folder) in message
