"""The methods at matched budgets: --config=configs/study.py:PRESET for the verb `study`.

PRESET is smoke (three minutes on 2 cores), cpu (two hours per seed on 2 cores) or gpu (25 minutes
on one H200, by an estimate). Name the corpus and its tokenizer: --config.data.corpus=text:... and
so on; without, it is the sources of Python, as bytes.

PRESET,METHOD is the model of one method alone, of matching width, for train.py and `budget`.
METHOD may change fields, as in cartesian+model.moe.sublayers=3.
"""

import dataclasses

from ml_collections import ConfigDict

from cartesian_moe_jax import config as schema
from cartesian_moe_jax.errors import UserError, lookup
from cartesian_moe_jax.study.variants import parse_variants, variant_config
from configs import base

ALL = (
    "dense,dense_active,dense_stacked,smoe_share,smoe_top3,hash,fine_grained,top_p,"
    "cartesian,cartesian_noshared"
)

SMOKE = {
    "model": {
        "d_model": 64,
        "num_layers": 2,
        "num_heads": 2,
        "d_ff": 128,
        "init_std": 0.05,
        "remat": "full",
        "moe": {"num_experts": 8, "top_k": 2},
    },
    "data": {"seq_len": 64},
    "optimizer": {"warmup_steps": 20},
    "training": {"steps": 200, "batch_size": 16, "log_every": 5, "checkpoint_every": 100},
    "evaluation": {"max_tokens": 65_536, "batch_size": 32},
    "study": {
        "methods": "smoe_share,fine_grained,cartesian",
        "seeds": "0,1",
        "learning_rates": "4e-3,8e-3",
        "extensions": 0,
        "tuning_steps": 60,
        "robustness_tokens": 8_192,
    },
}

CPU = {
    "model": {
        "d_model": 128,
        "num_layers": 4,
        "num_heads": 2,
        "d_ff": 256,
        "init_std": 0.05,
        "remat": "full",
        "moe": {"num_experts": 8, "top_k": 2},
    },
    "data": {"seq_len": 128},
    "optimizer": {"warmup_steps": 300},
    "training": {"steps": 3_000, "batch_size": 16, "log_every": 5, "checkpoint_every": 500},
    "evaluation": {"max_tokens": 400_000, "batch_size": 32},
    "study": {
        "methods": ALL,
        "learning_rates": "2e-3,4e-3,8e-3",
        "expert_rates": "1,2,4",
        "extensions": 2,
        "tuning_steps": 500,
        "robustness_tokens": 32_768,
    },
}

GPU = {
    "model": {
        "d_model": 384,
        "num_layers": 8,
        "num_heads": 6,
        "d_ff": 768,
        "init_std": 0.02,
        "moe": {"num_experts": 16, "top_k": 2},
    },
    "data": {"seq_len": 256},
    "optimizer": {"warmup_steps": 150},
    "training": {"steps": 1_500, "batch_size": 128, "log_every": 5, "checkpoint_every": 500},
    "evaluation": {"max_tokens": 1_000_000, "batch_size": 128},
    "study": {
        "methods": "smoe_share,fine_grained,cartesian",
        "learning_rates": "1e-3,2e-3",
        "extensions": 1,
        "tuning_steps": 300,
        "robustness_tokens": 131_072,
    },
}

PRESETS = {"smoke": SMOKE, "cpu": CPU, "gpu": GPU}


def get_config(argument: str = "cpu") -> ConfigDict:
    """Return the preset `PRESET`, or the model of one method in it, `PRESET,METHOD`."""
    preset, comma, method = argument.partition(",")
    config = base.get_config()
    # The plain layer that every method is made of; d_expert is computed.
    config.model.moe.sublayers = 1
    for section, fields in lookup(PRESETS, preset, "configs/study.py:PRESET").items():
        config[section].update(fields)
    if not comma:
        return config
    variants = parse_variants(method)
    if len(variants) > 1:
        raise UserError(f"configs/study.py:{argument} is not PRESET,METHOD: one method wanted")
    plain = schema.read(config.to_dict())
    return ConfigDict(dataclasses.asdict(variant_config(plain, variants[0])))
