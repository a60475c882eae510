"""What must hold between fields of the config."""

from typing import Any


def relations(c: Any) -> list[tuple[bool, str]]:
    """List what must hold between fields of a ``Config``, and the line that says if it does not."""
    m, moe, t = c.model, c.model.moe, c.training
    return [
        (
            moe.top_k <= moe.num_experts,
            f"config.model.moe.top_k={moe.top_k} is not allowed: at most "
            f"config.model.moe.num_experts={moe.num_experts}",
        ),
        (
            max(moe.without_shared_expert(), default=0) < moe.sublayers,
            f"config.model.moe.shared_expert_not_in={moe.shared_expert_not_in!r} is not allowed: "
            f"sub-layers are 0 to config.model.moe.sublayers - 1 = {moe.sublayers - 1}",
        ),
        (
            moe.shared_expert or not moe.shared_expert_not_in,
            f"config.model.moe.shared_expert_not_in={moe.shared_expert_not_in!r} is not allowed: "
            "config.model.moe.shared_expert=False leaves all sub-layers without",
        ),
        (
            not moe.interval or moe.first_layer + moe.offset < m.num_layers,
            f"config.model.moe.first_layer={moe.first_layer} with offset={moe.offset} leaves none "
            f"of config.model.num_layers={m.num_layers} a mixture: config.model.moe.interval=0 is "
            "a dense model",
        ),
        (
            moe.offset < max(moe.interval, 1),
            f"config.model.moe.offset={moe.offset} is not allowed: below "
            f"config.model.moe.interval={moe.interval}",
        ),
        (
            m.d_model % (2 * m.num_heads) == 0,
            f"config.model.num_heads={m.num_heads} is not allowed: config.model.d_model="
            f"{m.d_model} must be an even multiple of it (rotary positions turn pairs)",
        ),
        (
            t.batch_size % t.accumulate == 0,
            f"config.training.batch_size={t.batch_size} is not allowed: a multiple of "
            f"config.training.accumulate={t.accumulate}",
        ),
        (
            sum(c.profile_window() or (0, 0)) <= t.steps + 1,
            f"config.profile={c.profile!r} is not allowed: it ends behind "
            f"config.training.steps={t.steps}",
        ),
    ]
