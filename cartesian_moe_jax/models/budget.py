"""What a model costs: parameters and floating-point operations, counted from its shapes."""

from collections.abc import Mapping
from typing import Any

from cartesian_moe_jax.config import ModelConfig
from cartesian_moe_jax.models import depth

BACKWARD_AND_FORWARD = 3
"""Training costs three forwards: the backward pass does two matmuls for each one."""


def total_parameters(parameters: Mapping[str, Any]) -> int:
    """Count all parameters."""
    return sum(value.size for value in parameters.values())


def active_parameters(parameters: Mapping[str, Any], config: ModelConfig) -> int:
    """Count the parameters that one token uses: top_k of the routed experts, and all the rest."""
    routed = sum(value.size for name, value in parameters.items() if "/experts/" in name)
    idle = config.moe.num_experts - config.moe.top_k
    return total_parameters(parameters) - routed * idle // config.moe.num_experts


def forward_flops_per_token(
    parameters: Mapping[str, Any], config: ModelConfig, seq_len: int
) -> float:
    """Count matmul FLOPs of one token's forward pass (a multiply-add is 2).

    Two per active matrix element (the embedding is a look-up, gains and biases are elementwise),
    and causal attention: the mean position reads (seq_len + 1) / 2 others, scores and values.
    """
    matrices = {
        name: value
        for name, value in parameters.items()
        if not name.endswith(("gain", "bias")) and name != "embedding"
    }
    attention = 4 * config.d_model * (seq_len + 1) / 2 * config.num_layers
    return 2 * active_parameters(matrices, config) + attention


def training_flops_per_token(
    parameters: Mapping[str, Any], config: ModelConfig, seq_len: int
) -> float:
    """Count FLOPs of training on one token, without recomputation: model FLOPs, as MFU wants."""
    return BACKWARD_AND_FORWARD * forward_flops_per_token(parameters, config, seq_len)


def moe_layers(config: ModelConfig) -> list[int]:
    """List the depths of the MoE layers."""
    return depth.moe_layers(config.num_layers, config.moe)
