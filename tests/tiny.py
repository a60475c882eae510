"""A model, a corpus and a config small enough for tests."""

import copy
import dataclasses
import functools

import jax.numpy as jnp
import numpy as np

from cartesian_moe_jax import config as schema
from cartesian_moe_jax.models.build import abstract_model
from cartesian_moe_jax.models.parameters import named_parameters, with_parameters
from cartesian_moe_jax.parallel.layouts import LAYOUTS

TEXT = "".join(
    f"def add_{i}(a, b):\n    '''Return a + b + {i}.'''\n    return a + b + {i}\n\n"
    for i in range(400)
)

VALUES = {
    "model": {
        "d_model": 16,
        "num_layers": 3,
        "num_heads": 2,
        "d_ff": 24,
        "init_std": 0.05,
        "vocab_size": 384,
        "moe": {"num_experts": 4, "top_k": 2, "d_expert": 12},
    },
    "data": {"seq_len": 16},
    "optimizer": {"learning_rate": 1e-2, "warmup_steps": 2},
    "training": {"steps": 12, "batch_size": 8, "log_every": 4, "checkpoint_every": 100},
    "evaluation": {"sample_tokens": 8, "max_tokens": 2000},
    "parallel": {"data": 1},
}


def merged(first, second):
    """First with second's values in place of its own, section by section."""
    if not isinstance(second, dict):
        return second
    return {**first, **{k: merged(first.get(k, {}), v) for k, v in second.items()}}


def values(tmp_path=None, **sections):
    """The tiny config as nested dicts; with tmp_path, on a corpus that is written there."""
    all_values = copy.deepcopy(merged(VALUES, sections))  # to be changed as one likes
    if tmp_path is not None:
        corpus = tmp_path / "corpus.txt"
        if not corpus.exists():
            corpus.write_text(TEXT)
        local = {
            "data": {"corpus": f"text:{corpus}", "cache_dir": str(tmp_path / "cache")},
            "training": {"compilation_cache": str(tmp_path / "xla")},
        }
        all_values = merged(merged(all_values, local), sections)
    return all_values


def config(tmp_path=None, **sections):
    return schema.read(values(tmp_path, **sections))


def model_config(**fields):
    """The tiny model's config with some fields changed; ``moe`` is a dict."""
    return config(model=fields).model


def parallel(**fields):
    return dataclasses.replace(schema.ParallelConfig(), **fields)


@functools.cache
def model(config, seed=0):
    """A model with initial weights drawn by numpy: nothing to compile. Do not change it."""
    skeleton, rng = abstract_model(config, LAYOUTS["data"]), np.random.default_rng(seed)

    def initial(name, shape):
        if name.endswith(("gain", "bias")):
            return jnp.full(shape, float(name.endswith("gain")))
        return jnp.asarray(config.init_std * rng.standard_normal(shape), jnp.float32)

    parameters = {name: initial(name, s.shape) for name, s in named_parameters(skeleton).items()}
    return with_parameters(skeleton, parameters)
