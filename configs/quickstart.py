"""A minute and a half on 2 cores: a small CartesianMoE on Python's standard library."""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Return the preset."""
    config = base.get_config()
    model = config.model
    model.d_model, model.num_layers, model.num_heads = 128, 2, 4
    model.init_std = 0.05
    model.remat = "full"
    model.moe.interval = 1
    model.moe.num_experts, model.moe.top_k, model.moe.d_expert = 8, 2, 64
    config.data.seq_len = 128
    config.optimizer.learning_rate = 4e-3
    config.optimizer.warmup_steps = 100
    config.training.steps = 1100
    config.training.batch_size = 16
    config.training.checkpoint_every = 500
    return config
