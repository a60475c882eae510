"""The official implementation's config.json and our config, either from the other.

Fields, their defaults and their order of precedence are those of its configuration and model code.
What one side can say and the other cannot is an error that names the field.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cartesian_moe_jax import config as schema
from cartesian_moe_jax.config import Config, ModelConfig, MoEConfig
from cartesian_moe_jax.errors import UserError, nearest
from cartesian_moe_jax.models.depth import layer_kinds

Values = dict[str, Any]

TOP_P, HASH = 0, -2
"""What ``moe_top_k`` means below 1."""

OFFICIAL_TOP_P, HASH_TOP_K, ROPE_BASE = 0.4, 2, 10_000.0
"""Constants of the official code; no field sets them."""

RENAMED = {
    "hidden_size": "d_model",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "d_ff",
    "vocab_size": "vocab_size",
    "rms_norm_eps": "rms_norm_eps",
    "initializer_range": "init_std",
}
"""Fields that are the same thing under another name in ``config.model``."""


class Field(NamedTuple):
    """A field that is read: its type, and its default, or None where it must be given."""

    kind: type
    default: Any = None


FIELDS: Mapping[str, Field] = {
    "hidden_size": Field(int),
    "num_hidden_layers": Field(int),
    "num_attention_heads": Field(int),
    "intermediate_size": Field(int),
    "vocab_size": Field(int),
    "rms_norm_eps": Field(float, 1e-6),
    "initializer_range": Field(float, 0.02),
    "max_position_embeddings": Field(int, 2048),
    "use_moe": Field(bool, True),
    "initial_moe_layer": Field(int, 1),
    "interleave_moe_layer": Field(bool, False),
    "expert_interval": Field(int, 2),
    "moe_top_k": Field(int, 1),
    "num_experts": Field(int, 8),
    "use_residual": Field(bool, False),
    "c2_fine_grain": Field(bool, False),
    "fine_grain": Field(bool, False),
    "grain_level": Field(int, 1),
}

FIXED: Mapping[str, tuple[Any, ...]] = {
    "model_type": ("llama",),
    "hidden_act": ("silu",),
    "tie_word_embeddings": (False,),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "rope_theta": (ROPE_BASE,),
    "rope_scaling": (None,),
    "attention_dropout": (0.0,),
    "pretraining_tp": (1,),
}
"""Fields that change the model; ours is the one with these values."""

WITHOUT_EFFECT = {
    "_name_or_path",
    "architectures",
    "auto_map",
    "bos_token_id",
    "capacity_factor",
    "dtype",
    "eos_token_id",
    "max_router_experts",
    "max_sequence_length",
    "moe_expert_parallel_size",
    "moe_grained",
    "moe_min_capacity",
    "moe_scale",
    "num_key_value_heads",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "return_dict",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "use_return_dict",
}
"""Fields that the official model does not read, or that change no logits."""


def read_official(values: Mapping[str, Any], *, has_table: bool, where: str) -> Config:
    """Return the config (model, and data.seq_len) that a config.json means.

    ``has_table``: the checkpoint holds ``router_tokens``, so it is hash-routed: the official code
    overwrites moe_top_k with 2 when it runs. Raises UserError that names ``where`` and the field.
    """
    given = _checked(values, where)
    for holds, line in _contradictions(given, values, has_table):
        if not holds:
            raise UserError(f"{where}: {line}")
    model = {ours: given[theirs] for theirs, ours in RENAMED.items()}
    moe = _read_moe(given, has_table) if given["use_moe"] else {"interval": 0}
    data = {"seq_len": given["max_position_embeddings"]}
    try:
        return schema.read({"model": {**model, "moe": moe}, "data": data})
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def write_official(config: Config, end_of_text: int | None = None) -> Values:
    """Return the config.json of a model; raises UserError for what it cannot say."""
    model = config.model
    _require_sayable(_limits_of_model(model))
    values = {theirs: getattr(model, ours) for theirs, ours in RENAMED.items()}
    ends = {} if end_of_text is None else {"bos_token_id": end_of_text, "eos_token_id": end_of_text}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "max_position_embeddings": config.data.seq_len,
        **values,
        **ends,
        **_write_moe(model),
    }


def _checked(values: Mapping[str, Any], where: str) -> Values:
    """Return every field of FIELDS; raises UserError for what is unknown, missing or mistyped."""
    known = {*FIELDS, *FIXED, *WITHOUT_EFFECT}
    for name, value in values.items():
        if name not in known:
            raise UserError(f"{where}: {name} is not a field of it{nearest(name, known)}")
        if name in FIXED and value not in FIXED[name]:
            raise UserError(f"{where}: {name}={value!r} is not allowed: {FIXED[name][0]!r} is")
    for name, field in FIELDS.items():
        value = values.get(name, field.default)
        if value is None:
            raise UserError(f"{where}: {name} is missing")
        if not _is_a(field.kind, value):
            raise UserError(f"{where}: {name}={value!r} is not allowed: {field.kind.__name__}")
    return {name: values.get(name, field.default) for name, field in FIELDS.items()}


def _is_a(kind: type, value: Any) -> bool:
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _contradictions(
    v: Values, values: Mapping[str, Any], has_table: bool
) -> list[tuple[bool, str]]:
    """List what must hold between fields, each with the line that says so when it does not."""
    moe, heads = v["use_moe"], v["num_attention_heads"]
    key_value_heads = values.get("num_key_value_heads") or heads
    placed = v["initial_moe_layer"] >= 0 or v["interleave_moe_layer"]
    top_ks = (HASH, HASH_TOP_K) if has_table else (v["moe_top_k"],)
    split = v["c2_fine_grain"] or v["fine_grain"]
    top_k = f"moe_top_k={v['moe_top_k']}"
    return [
        (
            key_value_heads == heads,
            f"num_key_value_heads={key_value_heads} is not allowed: num_attention_heads={heads} is",
        ),
        (
            placed or not moe,
            f"initial_moe_layer={v['initial_moe_layer']} with interleave_moe_layer=False leaves "
            "open which layers are MoE: one of 0 or more, or interleave_moe_layer=True, is wanted",
        ),
        (
            v["expert_interval"] >= 1,
            f"expert_interval={v['expert_interval']} is not allowed: at least 1",
        ),
        (
            v["num_experts"] >= 2 or not moe,
            f"num_experts={v['num_experts']} is not allowed with use_moe=True: at least 2",
        ),
        (
            not (v["c2_fine_grain"] and v["fine_grain"]),
            "c2_fine_grain=True and fine_grain=True contradict each other: one is allowed",
        ),
        (
            not split or 1 <= v["grain_level"] <= v["intermediate_size"],
            f"grain_level={v['grain_level']} is not allowed: 1 to intermediate_size="
            f"{v['intermediate_size']}",
        ),
        (
            v["moe_top_k"] >= 1 or v["moe_top_k"] in (TOP_P, HASH),
            f"{top_k} is not allowed: at least 1, {TOP_P} (top-p) or {HASH} (hash)",
        ),
        (
            v["moe_top_k"] in top_ks,
            f"{top_k} contradicts the tensor model.router_tokens.weight: {HASH} (hash) is wanted",
        ),
        (
            not v["c2_fine_grain"] or (v["moe_top_k"] >= 1 and not has_table),
            f"{top_k} is not allowed with c2_fine_grain=True: at least 1, and no router_tokens",
        ),
    ]


def _read_moe(v: Values, has_table: bool) -> Values:
    """Return the fields of ``config.model.moe``."""
    cartesian, fine = v["c2_fine_grain"], v["fine_grain"]
    return {
        **_read_places(v),
        "sublayers": 2 if cartesian else 1,
        "num_experts": v["num_experts"],
        "d_expert": v["intermediate_size"] // (v["grain_level"] if cartesian or fine else 1),
        "shared_expert": v["use_residual"],
        "shared_feed_forwards": 2 if fine and v["use_residual"] else 1,
        **_read_router(HASH if has_table else v["moe_top_k"]),
    }


def _read_places(v: Mapping[str, Any]) -> Values:
    """Return which layers are MoE; initial_moe_layer has precedence, as in the official code."""
    if v["initial_moe_layer"] >= 0:
        return {"first_layer": v["initial_moe_layer"], "interval": 1}
    return {"first_layer": 0, "interval": v["expert_interval"]}


def _read_router(moe_top_k: int) -> Values:
    special = {
        TOP_P: {"router": "top_p", "top_k": 1, "top_p": OFFICIAL_TOP_P},
        # No loss moves a table, and the config refuses one on it.
        HASH: {"router": "hash", "top_k": HASH_TOP_K, "balance_loss": 0.0},
    }
    return special.get(moe_top_k, {"router": "softmax_top_k", "top_k": moe_top_k})


def _limits_of_model(m: ModelConfig) -> list[tuple[bool, str, Any, str]]:
    """List (it can be said, field, value, what can be said)."""
    return [
        (m.activation == "swiglu", "activation", m.activation, "swiglu"),
        (m.rope_base == ROPE_BASE, "rope_base", m.rope_base, str(ROPE_BASE)),
        (m.vocab_size > 0, "vocab_size", m.vocab_size, "at least 1"),
    ]


def _limits_of_moe(moe: MoEConfig, d_ff: int) -> list[tuple[bool, str, Any, str]]:
    """List the same of the MoE layers."""
    routers = {
        1: {"softmax_top_k": None, "hash": HASH_TOP_K, "top_p": None},
        2: {"softmax_top_k": None},
    }.get(moe.sublayers, {})
    top_k = routers.get(moe.router) or moe.top_k
    double = moe.sublayers == 1 and _is_fine(moe, d_ff)
    shared = 1 + double if moe.shared_expert else moe.shared_feed_forwards
    grain = _grain_level(moe, d_ff)
    widths = f"config.model.d_ff={d_ff}, or with split experts that divided by a whole number"
    bare = moe.shared_expert_not_in if moe.shared_expert else ""
    top_p = moe.top_p if moe.router == "top_p" else OFFICIAL_TOP_P
    own_tables = moe.router == "hash" and moe.table_per_sublayer
    return [
        (moe.layer == "cartesian", "layer", moe.layer, "cartesian"),
        (moe.sublayers <= 2, "sublayers", moe.sublayers, "1 or 2"),
        (moe.num_experts >= 2, "num_experts", moe.num_experts, "at least 2"),
        (moe.router in routers, "router", moe.router, f"with these sub-layers {[*routers]}"),
        (moe.top_k == top_k, "top_k", moe.top_k, f"with this router {top_k}"),
        (top_p == OFFICIAL_TOP_P, "top_p", moe.top_p, str(OFFICIAL_TOP_P)),
        (not own_tables, "table_per_sublayer", moe.table_per_sublayer, "False"),
        (not bare, "shared_expert_not_in", bare, "nothing"),
        (
            moe.shared_feed_forwards == shared,
            "shared_feed_forwards",
            moe.shared_feed_forwards,
            f"with these sub-layers {shared}",
        ),
        (d_ff // grain == moe.d_expert, "d_expert", moe.d_expert, widths),
    ]


def _require_sayable(limits: Sequence[tuple[bool, str, Any, str]], section: str = "") -> None:
    for holds, field, value, allowed in limits:
        if not holds:
            raise UserError(
                f"config.model.{section}{field}={value!r} cannot be said in the official format: "
                f"it has {allowed}"
            )


def _is_fine(moe: MoEConfig, d_ff: int) -> bool:
    """Say whether one sub-layer's experts are split ones, so that two make its shared expert."""
    return moe.shared_feed_forwards > 1 if moe.shared_expert else moe.d_expert != d_ff


def _grain_level(moe: MoEConfig, d_ff: int) -> int:
    is_split = moe.sublayers == 2 or _is_fine(moe, d_ff)
    return max(d_ff // moe.d_expert, 1) if is_split else 1


def _write_moe(model: ModelConfig) -> Values:
    """Return the official fields of the MoE layers."""
    moe, d_ff = model.moe, model.d_ff
    kinds = layer_kinds(model.num_layers, moe)
    if moe.layer not in kinds:
        return {"use_moe": False}
    _require_sayable(_limits_of_moe(moe, d_ff), "moe.")
    return {
        "use_moe": True,
        **_write_places(moe, kinds),
        "moe_top_k": {"top_p": TOP_P, "hash": HASH}.get(moe.router, moe.top_k),
        "num_experts": moe.num_experts,
        "use_residual": moe.shared_expert,
        "c2_fine_grain": moe.sublayers == 2,
        "fine_grain": moe.sublayers == 1 and _is_fine(moe, d_ff),
        "grain_level": _grain_level(moe, d_ff),
    }


def _write_places(moe: MoEConfig, kinds: Sequence[str]) -> Values:
    """Return the fields that make just these layers MoE; raises UserError if none do."""
    candidates = [
        {"initial_moe_layer": -1, "interleave_moe_layer": True, "expert_interval": moe.interval},
        {"initial_moe_layer": kinds.index(moe.layer), "interleave_moe_layer": False},
    ]
    for places in candidates if moe.interval > 1 else candidates[::-1]:
        read = MoEConfig(layer=moe.layer, **_read_places(places))
        if layer_kinds(len(kinds), read) == kinds:
            return places
    raise UserError(
        f"config.model.moe.first_layer={moe.first_layer}, interval={moe.interval}, "
        f"offset={moe.offset} cannot be said in the official format: it has every layer from one "
        "on, or every interval-th from layer 0 on"
    )
