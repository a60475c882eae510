"""The official implementation's weights, under this project's parameter names."""

import json
from pathlib import Path

import numpy as np

from cartesian_moe_jax.config import ModelConfig, MoEConfig
from cartesian_moe_jax.moe.shape import SubLayerShape

GOLDEN = Path(__file__).parent / "golden"
PARTS = ("gate", "up", "down")


def load(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def meta(golden):
    return json.loads(bytes(golden["meta_json"]))


def transposed(weight):
    """torch's [..., out, in] as [..., in, out]."""
    return np.swapaxes(weight, -1, -2)


def side_by_side(part, weights):
    """Feed-forwards of ours [in, out] as one: columns of gate and up, rows of down."""
    return np.concatenate(weights, axis=0 if part == "down" else 1)


def prefixes(golden):
    """What the names of a layer file's sub-layers begin with."""
    return ["a.", "b."] if "w.a.router" in golden else [""]


def routing_fields(top_k, hashed):
    """The router that the official ``moe_top_k`` means: 0 is top-p, -2 is hash."""
    if top_k == 0:
        return {"router": "top_p", "top_k": 2}
    if hashed:
        return {"router": "hash", "top_k": 2}
    return {"top_k": top_k}


def sublayer_shape(golden, backend):
    """The shape of a layer file's sub-layers."""
    variant, first = meta(golden)["variant"], prefixes(golden)[0]
    experts, d_expert, d_model = golden[f"w.{first}expert_gate"].shape
    return SubLayerShape(
        d_model=d_model,
        num_experts=experts,
        d_expert=d_expert,
        shared_expert=variant["use_residual"],
        shared_feed_forwards=2 if "w.shared0_up" in golden else 1,
        backend=backend,
        **routing_fields(variant["moe_top_k"], "hash_logits" in golden),
    )


def layer_parameters(golden, kind):
    """Name the arrays of a layer file; ``kind`` is ``w`` (weights) or ``grad``."""
    named = {}
    for i, (prefix, norm) in enumerate(zip(prefixes(golden), ("ffn", "mid"), strict=False)):
        of = {n.removeprefix(f"{kind}.{prefix}"): golden[n] for n in golden if n.startswith(kind)}
        named[f"norms/{i}/gain"] = golden[f"{kind}.norm_{norm}"]
        router = "unused" if "hash_logits" in golden else "weight"
        named[f"sublayers/{i}/router/{router}"] = transposed(of["router"])
        for part in PARTS:
            named[f"sublayers/{i}/experts/{part}"] = transposed(of[f"expert_{part}"])
        if "coef_w" in of:
            named |= _shared_expert(of, f"sublayers/{i}/shared_expert")
    return named


def _shared_expert(of, ours):
    """The shared expert of a sub-layer: one feed-forward, or two that are averaged."""
    names = ["shared0", "shared1"] if "shared0_up" in of else ["shared"]
    named = {f"{ours}/coefficient": transposed(of["coef_w"]), f"{ours}/bias": of["coef_b"]}
    for part in PARTS:
        weights = [transposed(of[f"{name}_{part}"]) for name in names]
        named[f"{ours}/feed_forward/{part}"] = side_by_side(part, weights)
    return named


def model_config(golden, backend="reference"):
    """The config of a whole-model file."""
    cfg = meta(golden)["cfg"]
    cartesian, fine = cfg["c2_fine_grain"], cfg["fine_grain"]
    hashed = "sd.model.router_tokens.weight" in golden
    return ModelConfig(
        d_model=cfg["hidden_size"],
        num_layers=cfg["num_hidden_layers"],
        num_heads=cfg["num_attention_heads"],
        d_ff=cfg["intermediate_size"],
        vocab_size=cfg["vocab_size"],
        rms_norm_eps=cfg["rms_norm_eps"],
        moe=MoEConfig(
            first_layer=max(cfg["initial_moe_layer"], 0),
            interval=cfg["expert_interval"] if cfg["interleave_moe_layer"] else 1,
            sublayers=2 if cartesian else 1,
            num_experts=cfg["num_experts"],
            d_expert=cfg["intermediate_size"] // cfg["grain_level"],
            shared_feed_forwards=2 if fine else 1,
            balance_loss=0.0,
            backend=backend,
            **routing_fields(cfg["moe_top_k"], hashed),
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
        for part in PARTS:
            named[f"feed_forward/feed_forward/{part}"] = transposed(of[f"mlp.{part}_proj.weight"])
        return named
    hashed = "sd.model.router_tokens.weight" in weights
    numbers = ["0", "1"] if "wg0.weight" in of else [""]
    norms = ("post_attention_layernorm", "mlp_layernorm")
    for i, (number, norm) in enumerate(zip(numbers, norms, strict=False)):
        named[f"feed_forward/norms/{i}/gain"] = of[f"{norm}.weight"]
        sublayer = _sublayer(of, number, "unused" if hashed else "weight")
        named |= {f"feed_forward/sublayers/{i}/{name}": w for name, w in sublayer.items()}
    return named


def _sublayer(of, number, router):
    """A sub-layer's parameters; ``number`` is what the official names of its parts end with."""
    named = {
        f"router/{router}": transposed(of[f"wg{number}.weight"]),
        "shared_expert/coefficient": transposed(of[f"coefficient{number}.weight"]),
        "shared_expert/bias": of[f"coefficient{number}.bias"],
    }
    experts = range(len([n for n in of if n.startswith(f"mlp{number}.") and "gate" in n]))
    shared = f"res_mlp{number}"
    double = f"{shared}.mlp0.up_proj.weight" in of
    for part in PARTS:
        named[f"experts/{part}"] = np.stack(
            [transposed(of[f"mlp{number}.{e}.{part}_proj.weight"]) for e in experts]
        )
        names = [f"{shared}.mlp0", f"{shared}.mlp1"] if double else [shared]
        weights = [transposed(of[f"{name}.{part}_proj.weight"]) for name in names]
        named[f"shared_expert/feed_forward/{part}"] = side_by_side(part, weights)
    return named


def model_parameters(golden, places):
    """All parameters; ``places[layer] = (segment, block)``, repetitions in the order of layers."""
    heads = meta(golden)["cfg"]["num_attention_heads"]
    named = {
        "embedding": golden["sd.model.embed_tokens.weight"],
        "norm/gain": golden["sd.model.norm.weight"],
        "head": transposed(golden["sd.lm_head.weight"]),
    }
    if "sd.model.router_tokens.weight" in golden:
        named["table"] = golden["sd.model.router_tokens.weight"]
    stacked = {}
    for layer, (segment, block) in enumerate(places):
        for name, weight in _layer(golden, layer, heads).items():
            stacked.setdefault(f"segments/{segment}/blocks/{block}/{name}", []).append(weight)
    return named | {name: np.stack(weights) for name, weights in stacked.items()}
