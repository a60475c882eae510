"""Folders in the official format, made from the golden models and from models of ours."""

import dataclasses
import json

import jax
import numpy as np
from safetensors.numpy import save_file

from cartesian_moe_jax import config as schema
from cartesian_moe_jax.interop.official_model import write_model
from cartesian_moe_jax.models.methods import METHODS, PlainLayer, with_method
from cartesian_moe_jax.models.parameters import named_parameters
from tests import official, tiny

MODELS = ("cartesian_interleave", "hash_from1", "finegrain_all")
SAYABLE = sorted(set(METHODS) - {"dense_active", "dense_stacked"})
PLAIN = PlainLayer(d_ff=24, num_experts=4, top_k=2)


def golden(name):
    return official.load(f"cartesianmoe_model_{name}")


def golden_tensors(name):
    arrays = golden(name)
    return {n.removeprefix("sd."): w for n, w in arrays.items() if n.startswith("sd.")}


def golden_folder(folder, name, dtype=np.float32, **config):
    """Write a golden model as the official code would have."""
    tensors = {n: w.astype(dtype) for n, w in golden_tensors(name).items()}
    return folder_of(folder, tensors, official.meta(golden(name))["cfg"] | config)


def folder_of(folder, tensors, config):
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def method_config(method):
    """The config of a tiny model of one of the paper's methods."""
    model = with_method(tiny.config().model, method, PLAIN)
    return schema.read(tiny.values(model=dataclasses.asdict(model)))


def method_folder(folder, method):
    """Write a tiny model of a method; return its config and its parameters by name."""
    config = method_config(method)
    parameters = named_parameters(jittered(tiny.model(config.model)))
    folder.mkdir()
    write_model(folder, config, parameters)
    return config, parameters


def jittered(model):
    """Replace gains and biases, which are ones and zeros, by numbers that differ."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda w: w + 0.01 * rng.standard_normal(w.shape).astype(w.dtype), model)
