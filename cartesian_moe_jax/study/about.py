"""What a study is, for the top of its report, from the setting that its records share."""

import datetime
from collections.abc import Mapping
from typing import Any

from cartesian_moe_jax.data.tokenizers import tokenizer_label
from cartesian_moe_jax.study.setting import config_of


def about_of(setting: Mapping[str, Any], text: str = "a text") -> dict[str, str]:
    """Return label -> text; ``text`` is where the data lies, which records do not keep."""
    config = config_of(setting)
    training, model, there = config.training, config.model, setting["train_tokens"]
    tokens = training.steps * training.batch_size * config.data.seq_len
    return {
        "Trained on": f"{tokens:,} tokens a run, {tokens / there:.2f} epochs of {text} of "
        f"{there:,} tokens (hash {setting['data_hash'][:8]})",
        "Tokenizer": tokenizer_label(setting["tokenizer"]),
        "Plain layer": f"E = {model.moe.num_experts} experts of width D = {model.d_ff}, top-"
        f"{model.moe.top_k}, in {model.num_layers} layers of width {model.d_model}",
        "Date": f"{datetime.date.today()}",
    }
