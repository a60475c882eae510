"""Two minutes on 2 cores: a small CartesianMoE on the sources of Python's standard library."""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Return the preset."""
    config = base.get_config()
    model = config.model
    model.d_model, model.num_layers, model.num_heads = 128, 4, 4
    model.d_ff = 512
    model.init_std = 0.02
    model.moe.num_experts, model.moe.top_k, model.moe.d_expert = 8, 2, 128
    config.data.seq_len = 256
    config.optimizer.learning_rate = 3e-3
    config.optimizer.warmup_steps = 50
    config.training.steps = 600
    config.training.batch_size = 16
    config.training.checkpoint_every = 200
    return config
