"""The official implementation's weights, under this project's parameter names."""

import json
from pathlib import Path

import numpy as np

from cartesian_moe_jax.config import ModelConfig, MoEConfig

GOLDEN = Path(__file__).parent / "golden"


def load(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def meta(golden):
    return json.loads(bytes(golden["meta_json"]))


def transposed(weight):
    """torch's [..., out, in] as [..., in, out]."""
    return np.swapaxes(weight, -1, -2)


def cartesian_layer_parameters(golden, prefix):
    """Name the arrays of a layer file; ``prefix`` is ``w`` (weights) or ``grad``."""
    named = {"norms/0/gain": golden[f"{prefix}.norm_ffn"]}
    named["norms/1/gain"] = golden[f"{prefix}.norm_mid"]
    for i, letter in enumerate("ab"):
        ours, theirs = f"sublayers/{i}", f"{prefix}.{letter}"
        named[f"{ours}/router/weight"] = transposed(golden[f"{theirs}.router"])
        for part in ("gate", "up", "down"):
            named[f"{ours}/experts/{part}"] = transposed(golden[f"{theirs}.expert_{part}"])
            if f"{theirs}.shared_{part}" in golden:
                named[f"{ours}/shared_expert/feed_forward/{part}"] = transposed(
                    golden[f"{theirs}.shared_{part}"]
                )
        if f"{theirs}.coef_w" in golden:
            named[f"{ours}/shared_expert/coefficient"] = transposed(golden[f"{theirs}.coef_w"])
            named[f"{ours}/shared_expert/bias"] = golden[f"{theirs}.coef_b"]
    return named


def model_config(golden):
    """The config of a whole-model file whose MoE layers are interleaved Cartesian ones."""
    cfg = meta(golden)["cfg"]
    return ModelConfig(
        d_model=cfg["hidden_size"],
        num_layers=cfg["num_hidden_layers"],
        num_heads=cfg["num_attention_heads"],
        d_ff=cfg["intermediate_size"],
        vocab_size=cfg["vocab_size"],
        rms_norm_eps=cfg["rms_norm_eps"],
        moe=MoEConfig(
            interval=cfg["expert_interval"],
            num_experts=cfg["num_experts"],
            top_k=cfg["moe_top_k"],
            d_expert=cfg["intermediate_size"] // cfg["grain_level"],
            backend="reference",
        ),
    )


def _layer(weights, layer, heads):
    """One transformer layer's parameters, named as under ``segments/S/blocks/B``."""
    of = {name.removeprefix(f"sd.model.layers.{layer}."): w for name, w in weights.items()}
    named = {"norm/gain": of["input_layernorm.weight"]}
    for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v")):
        weight = transposed(of[f"self_attn.{theirs}_proj.weight"])
        named[f"attention/{ours}"] = weight.reshape(len(weight), heads, -1)
    out = transposed(of["self_attn.o_proj.weight"])
    named["attention/out"] = out.reshape(heads, -1, out.shape[-1])
    if "mlp.gate_proj.weight" in of:
        named["feed_forward/norm/gain"] = of["post_attention_layernorm.weight"]
        for part in ("gate", "up", "down"):
            named[f"feed_forward/feed_forward/{part}"] = transposed(of[f"mlp.{part}_proj.weight"])
        return named
    named["feed_forward/norms/0/gain"] = of["post_attention_layernorm.weight"]
    named["feed_forward/norms/1/gain"] = of["mlp_layernorm.weight"]
    for i in (0, 1):
        ours = f"feed_forward/sublayers/{i}"
        experts = range(len([n for n in of if n.startswith(f"mlp{i}.") and "gate" in n]))
        for part in ("gate", "up", "down"):
            named[f"{ours}/experts/{part}"] = np.stack(
                [transposed(of[f"mlp{i}.{e}.{part}_proj.weight"]) for e in experts]
            )
            named[f"{ours}/shared_expert/feed_forward/{part}"] = transposed(
                of[f"res_mlp{i}.{part}_proj.weight"]
            )
        named[f"{ours}/router/weight"] = transposed(of[f"wg{i}.weight"])
        named[f"{ours}/shared_expert/coefficient"] = transposed(of[f"coefficient{i}.weight"])
        named[f"{ours}/shared_expert/bias"] = of[f"coefficient{i}.bias"]
    return named


def model_parameters(golden, places):
    """All parameters; ``places[layer] = (segment, block, repetition)``."""
    heads = meta(golden)["cfg"]["num_attention_heads"]
    named = {
        "embedding": golden["sd.model.embed_tokens.weight"],
        "norm/gain": golden["sd.model.norm.weight"],
        "head": transposed(golden["sd.lm_head.weight"]),
    }
    stacked = {}
    for layer, (segment, block, _) in enumerate(places):
        for name, weight in _layer(golden, layer, heads).items():
            stacked.setdefault(f"segments/{segment}/blocks/{block}/{name}", []).append(weight)
    return named | {name: np.stack(weights) for name, weights in stacked.items()}
