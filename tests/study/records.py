"""Records as a small study would leave them: made up, plausible, and the same each time."""

import math

import numpy as np

from cartesian_moe_jax.study.record import COMPARISON, TUNING, Record

THREE = "cartesian+model.moe.sublayers=3"
OFFSETS = {
    "dense": 0.060,
    "smoe_share": 0.0,
    "fine_grained": 0.004,
    "top_p": 0.015,
    "cartesian": -0.030,
    "cartesian_noshared": -0.004,
    THREE: -0.012,
}
SUBLAYERS = {"cartesian": 2, "cartesian_noshared": 2, THREE: 3}
LAYERS, EXPERTS, TOKENS = 4, 16, 49_152_000
ABOUT = {
    "preset": "configs/study.py:small",
    "command": "python -m cartesian_moe_jax study --workdir=runs/study --methods='a*b_c'",
    "corpus": "text:/data/books <39 MB> | plain & more\nof several lines",
    "machine": "2 CPU cores",
}
SETTING = {
    "model.d_model": 384,
    "model.num_layers": 8,
    "model.num_heads": 6,
    "model.d_ff": 768,
    "model.vocab_size": 8192,
    "model.moe.num_experts": EXPERTS,
    "data.seq_len": 256,
    "optimizer.learning_rate": 0.0003,
    "total_parameters": 27_000_000,
    "active_parameters": 13_000_000,
    "steps": 6000,
    "corpus": "text:/data/books",
    "tokenizer": "bpe8k",
}


def model(variant):
    dense = variant == "dense"
    return {
        "d_ff": 768,
        "d_expert": 768 // SUBLAYERS.get(variant, 1),
        "num_experts": EXPERTS,
        "sublayers": SUBLAYERS.get(variant, 1),
        "top_k": 2,
        "total_parameters": 13_120_000 if dense else 27_040_000,
        "active_parameters": 13_120_000 if dense else 13_010_000,
        "forward_flops": 26.1e6,
        "has_experts": not dense,
    }


def trials(variant, loss, rng):
    """Disabled, random and removed, as a robustness test would list them."""
    harm = 0.9 if variant.startswith("cartesian") else 1.6
    places = ["all"]
    if variant in SUBLAYERS:
        places += [f"sublayer {s}" for s in range(SUBLAYERS[variant])]
    listed = [("none", "all", 0, 0.0)]
    for count in (1, 2, 3):
        for where in places:
            part = 1 if where == "all" else 0.4
            rise = harm * part * (1 + 0.5 * (count - 1)) + rng.normal(0, 0.15)
            listed.append(("disabled", where, count, rise))
    listed += [("random", "all", share, 2 * harm * share) for share in (0.1, 0.25, 0.5, 1.0)]
    for expert in range(4):
        rise = abs(rng.normal(0, 0.01))
        listed.append(("removed", f"MoE layer 0, sublayer 0, expert {expert}", 1, rise))
    return [
        {
            "kind": kind,
            "where": where,
            "amount": amount,
            "loss": loss + rise,
            "perplexity": math.exp(loss + rise),
            "loss_rise": rise,
        }
        for kind, where, amount, rise in listed
    ]


def routing_use(variant, rng):
    sublayers = SUBLAYERS.get(variant, 1)
    chosen = 2.6 if variant == "top_p" else 2
    load = rng.dirichlet(np.full(EXPERTS, 60.0), (LAYERS, sublayers)) * chosen
    pairs = rng.dirichlet(np.full(EXPERTS**2, 0.6), (LAYERS, sublayers - 1))
    return {
        "load": load.tolist(),
        "pairs": pairs.reshape(LAYERS, sublayers - 1, EXPERTS, EXPERTS).tolist(),
    }


def compared(variant, seed, **changes):
    rng = np.random.default_rng([seed, *variant.encode()])
    common = np.random.default_rng(seed).normal(0, 0.010)
    loss = 3.60 + OFFSETS[variant] + common + rng.normal(0, 0.006)
    tokens = np.linspace(TOKENS / 60, TOKENS, 60)
    noise = np.random.default_rng(seed).normal(0, 0.02, 60) + rng.normal(0, 0.006, 60)
    early = 0.1 * math.exp(-1) if variant in SUBLAYERS else 0.0
    curve = loss + 0.05 + (5.4 + early) * (1 + tokens / 4e5) ** -0.9 + noise
    experts = variant != "dense"
    values = {
        "purpose": COMPARISON,
        "variant": variant,
        "seed": seed,
        "rates": {"learning_rate": 0.001, "expert_rate": 2.0 if variant in SUBLAYERS else 1.0},
        "setting": SETTING,
        "model": model(variant),
        "tokens": TOKENS,
        "validation": {
            "loss": loss,
            "perplexity": math.exp(loss),
            "bits_per_byte": loss / math.log(2) / 3.9,
            "tokens": 204_800,
        },
        "curve": {"tokens": tokens.tolist(), "loss": curve.tolist()},
        "routing_use": routing_use(variant, rng) if experts else None,
        "robustness": trials(variant, loss, rng) if experts else None,
        "training_seconds": 130.0 + seed,
        "tokens_per_second": 378_000.0,
        "machine": {"device_kind": "cpu", "devices": 1, "jax": "0.10.2"},
    }
    return Record(**values | changes)


def tuned(variant, rate, loss, expert_rate=1.0, failed=""):
    return Record(
        purpose=TUNING,
        variant=variant,
        seed=100,
        rates={"learning_rate": rate, "expert_rate": expert_rate},
        setting=SETTING | {"steps": 1000},
        model=model(variant),
        failed=failed,
        tokens=0 if failed else 8_192_000,
        validation={} if failed else {"loss": loss, "perplexity": math.exp(loss)},
        training_seconds=20.0,
        tokens_per_second=400_000.0,
        machine={"device_kind": "cpu", "devices": 1, "jax": "0.10.2"},
    )


def tuning():
    return [
        tuned("dense", 0.0005, 4.31),
        tuned("dense", 0.001, 4.20),
        tuned("dense", 0.002, 4.25),
        tuned("smoe_share", 0.0005, 4.22),
        tuned("smoe_share", 0.001, 4.15),
        tuned("smoe_share", 0.002, 0.0, failed="the loss was nan at step 412 | lr <too> high"),
        tuned("cartesian", 0.0005, 4.25, 2.0),
        tuned("cartesian", 0.001, 4.17, 2.0),
        tuned("cartesian", 0.001, 4.21, 1.0),
    ]


def study(seeds=(0, 1, 2), variants=tuple(OFFSETS)):
    """All kinds of records: compared runs, one that failed, and tuning."""
    failed = compared(
        "top_p",
        3,
        failed="out of memory",
        validation={},
        curve={},
        routing_use=None,
        robustness=None,
    )
    runs = [compared(variant, seed) for variant in variants for seed in seeds]
    return [*runs, failed, *tuning()]
